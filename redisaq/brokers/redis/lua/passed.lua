-- Tells whether a group has worked off a partition up to a cut (G5).
-- KEYS: stream, retry, cuts.
-- ARGV: group, the number of the cut, the number in the stream's name, how many messages to count at most (0: only look whether there is one),
--       the oldest id of an earlier answer for the same cut or ''.
-- Answers: 1 if it has, else 0; how many messages were counted, and the oldest id among them or ''. If the cut is missing (a failover lost it),
--       the next one counts, or else the stream's last id, which becomes a cut.

local there = redis.call('XLEN', KEYS[1]) > 0 or redis.call('EXISTS', KEYS[1]) == 1
if not there or tonumber(ARGV[3]) < tonumber(ARGV[2]) then -- or it is not cut yet
    return {0, 0, ''}
end
if ARGV[4] == '0' and ARGV[5] ~= '' and redis.call('ZSCORE', KEYS[2], ARGV[5]) then
    return {0, 1, ARGV[5]}
end
local cut
for number = tonumber(ARGV[2]), tonumber(ARGV[3]) do
    cut = cut or redis.call('HGET', KEYS[3], number)
end
local lost = not cut
if lost then
    cut = facts_of(redis.call('XINFO', 'STREAM', KEYS[1]))['last-generated-id']
end
local last
for _, row in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local facts = facts_of(row)
    if facts.name == ARGV[1] then
        last = facts['last-delivered-id']
    end
end
local most, waiting, oldest = tonumber(ARGV[4]), 0, ''
local function count(id)
    waiting = waiting + 1
    if oldest == '' or above(oldest, id) then
        oldest = id
    end
end
local enough = math.max(1, most)
if last then
    for _, row in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', cut, enough)) do
        count(row[1])
    end
end
if above(cut, last or '0-0') and waiting < enough then
    for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '(' .. (last or '0-0'), cut, 'COUNT', enough - waiting)) do
        count(entry[1])
    end
end
-- The last ones due come first: a caller that asks with such an id is answered at once for as long as possible.
local from = 0
while waiting < enough do
    local ids = redis.call('ZREVRANGE', KEYS[2], from, from + 499)
    for _, id in ipairs(ids) do
        -- One that was redriven from another partition has a sequence of 2^40 or more. It is no entry of this stream, and belongs to an
        -- entry from before any cut that was made since.
        local sequence = tonumber(string.match(id, '^%d+%-(%d+)$')) -- else it was tampered with, and TakeDue sets it aside
        if sequence and waiting < enough and (sequence >= 1099511627776 or not above(id, cut)) then
            count(id)
        end
    end
    if #ids < 500 then
        break
    end
    from = from + 500
end
if lost then
    redis.call('HDEL', KEYS[3], '') -- S2: writes nothing, but lets the rest succeed when memory is full
    redis.call('HSET', KEYS[3], ARGV[3], cut)
end
return {last and waiting == 0 and 1 or 0, waiting, oldest}
