-- Looks for messages among the delayed ones and in the stream's entries after an anchor, as many as one step may look at (E2, E7).
-- KEYS: stream, delayed.
-- ARGV: the anchor, how many entries, then message ids.
-- Answers: 1 if a message that is not found was never appended, 0 if trimming may have removed it; then for each id its entry id, '' if it
--       is delayed, nil if it is in neither; the last id that the stream ever had (C5); and the entry to go on after, nil if there is no
--       other.

local wanted, found = {}, {}
for i = 3, #ARGV do
    wanted[ARGV[i]] = i - 2
    found[i - 2] = false
    if redis.call('ZSCORE', KEYS[2], ARGV[i]) then
        found[i - 2] = ''
    end
end
if redis.call('EXISTS', KEYS[1]) == 0 then
    return {1, found, '0-0', false} -- a missing stream has lost its entries, too
end

local facts = facts_of(redis.call('XINFO', 'STREAM', KEYS[1]))
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
local reaches = first and not above(first[1], ARGV[1])
if not reaches then -- then nothing may ever have been removed from the stream
    reaches = facts['entries-added'] == facts['length']
end

local after, left = ARGV[1], tonumber(ARGV[2])
while left > 0 do
    local count = math.min(left, 500)
    local entries = redis.call('XRANGE', KEYS[1], '(' .. after, '+', 'COUNT', count)
    for _, entry in ipairs(entries) do
        local fields = entry[2]
        for i = 1, #fields, 2 do
            if fields[i] == 'i' then
                local place = wanted[fields[i + 1]]
                if place then
                    found[place] = entry[1]
                end
                break
            end
        end
        after = entry[1]
    end
    left = left - count
    if #entries < count then
        after = false
        break
    end
end
return {reaches and 1 or 0, found, facts['last-generated-id'], after}
