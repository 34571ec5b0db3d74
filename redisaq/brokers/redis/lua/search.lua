-- Looks for a message in a stream, from its end back.
-- KEYS: stream (of a partition, or of dead letters).
-- ARGV: message id, the id to start before ('' for the last entry), how many entries to look at.
-- Answers: how many were looked at, the id to go on before or nil, the entry or nil.

local before, left, looked = ARGV[2] == '' and '+' or '(' .. ARGV[2], tonumber(ARGV[3]), 0
while left > 0 do
    local wanted = math.min(left, 100) -- few at a time: their payloads may be large
    local entries = redis.call('XREVRANGE', KEYS[1], before, '-', 'COUNT', wanted)
    for _, entry in ipairs(entries) do
        looked = looked + 1
        local fields = entry[2]
        for i = 1, #fields, 2 do
            if fields[i] == 'i' then
                if fields[i + 1] == ARGV[1] then
                    return {looked, false, entry}
                end
                break
            end
        end
        before = '(' .. entry[1]
    end
    if #entries < wanted then
        return {looked, false, false}
    end
    left = left - wanted
end
return {looked, string.sub(before, 2), false}
