-- Returns the newest entries of a stream without most of their payloads; or the oldest ones above an id.
-- KEYS: stream. ARGV: the id to begin below ('' for the newest), how many, how many bytes of a key or a payload, the id to begin above
-- ('': the newest are wanted).
-- Answers, for each: its id, message id, the beginnings of its key (nil without one) and of its payload, how many bytes the payload has.

local above = ARGV[4] ~= '' and '(' .. ARGV[4]
local below, left, most, rows = ARGV[1] == '' and '+' or '(' .. ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), {}
while left > 0 do
    local wanted = math.min(left, 10) -- few at a time: their payloads may be large
    local entries = above and redis.call('XRANGE', KEYS[1], above, '+', 'COUNT', wanted)
        or redis.call('XREVRANGE', KEYS[1], below, '-', 'COUNT', wanted)
    for _, entry in ipairs(entries) do
        local words, id, key, data = entry[2], '', false, ''
        for place = 1, #words, 2 do
            if words[place] == 'i' then id = words[place + 1] end
            if words[place] == 'k' then key = string.sub(words[place + 1], 1, most) end
            if words[place] == 'd' then data = words[place + 1] end
        end
        rows[#rows + 1] = {entry[1], id, key, string.sub(data, 1, most), #data}
        below, above = '(' .. entry[1], above and '(' .. entry[1]
    end
    left = #entries < wanted and 0 or left - wanted
end
return rows
