-- Counts entries of a stream.
-- KEYS: stream.
-- ARGV: the id that they are above, the id that they are not above ('' for the end), the most to count.
-- Answers: how many, the last of them or nil if there are no more.

local after, until_id, left, number = '(' .. ARGV[1], ARGV[2] == '' and '+' or ARGV[2], tonumber(ARGV[3]), 0
while left > 0 do
    local wanted = math.min(left, 100) -- few at a time: their payloads may be large
    local entries = redis.call('XRANGE', KEYS[1], after, until_id, 'COUNT', wanted)
    number = number + #entries
    if #entries < wanted then
        return {number, false}
    end
    after = '(' .. entries[#entries][1]
    left = left - wanted
end
return {number, string.sub(after, 2)}
