-- Returns one page of messages that wait for their time, earliest first.
-- KEYS: due times (retry, or delayed), bodies.
-- ARGV: the score and the id of the message to start after ('' and '' for the first), how many.
-- Answers: now in us (text, since a Lua number would lose digits, M6), and the messages: each its id, score, body or nil.

local function precedes(one, other) -- in the order of bytes, in which the server sorts; Lua's own comparison depends on the locale
    for i = 1, math.min(#one, #other) do
        local a, b = string.byte(one, i), string.byte(other, i)
        if a ~= b then
            return a < b
        end
    end
    return #one < #other
end

local time = redis.call('TIME')
local first = 0
if ARGV[1] ~= '' then -- the place after that message, which may be gone: its time's first and last places, halved until they meet
    local beyond = redis.call('ZCOUNT', KEYS[1], '-inf', ARGV[1])
    first = redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. ARGV[1])
    while first < beyond do
        local middle = math.floor((first + beyond) / 2)
        if precedes(ARGV[2], redis.call('ZRANGE', KEYS[1], middle, middle)[1]) then
            beyond = middle
        else
            first = middle + 1
        end
    end
end
local found, rows = redis.call('ZRANGE', KEYS[1], first, first + ARGV[3] - 1, 'WITHSCORES'), {}
for i = 1, #found, 2 do
    rows[#rows + 1] = {found[i], found[i + 1], redis.call('HGET', KEYS[2], found[i])}
end
return {time[1] .. string.format('%06d', time[2]), rows}
