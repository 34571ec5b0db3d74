-- Sets a group's position.
-- KEYS: stream, retry, bodies of retry, lease, and if the topic has grown what stand.lua says.
-- ARGV: group, position ('$': the end), the partition's channel, the partitions of each generation with commas.
-- Entries after the position that were delivered before become new again: they leave the pending entries and retry, unless they are no
-- longer in the stream. Once the partition has had an owner, `moves` in the lease counts the calls, and the token is spent (S5): nobody's
-- settlement passes any more. `moved_over` keeps the lowest position, and the last entry that had been delivered before, until the holder,
-- or another, has installed a token again.

local refused = stand(5, ARGV[4])
if refused then
    return refused
end
local time = redis.call('TIME')
local last, delivered = '0-0', false
if redis.call('EXISTS', KEYS[1]) == 1 then
    last = facts_of(redis.call('XINFO', 'STREAM', KEYS[1]))['last-generated-id']
    for _, row in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
        local group = facts_of(row)
        if group.name == ARGV[1] then
            delivered = group['last-delivered-id']
        end
    end
end
local position = ARGV[2]
if position == '$' or above(position, last) then -- else new entries below it would never be delivered
    position = last
end

-- S2: these write nothing, but let the rest succeed when memory is full, or fail before it.
redis.call('XACK', KEYS[1], ARGV[1], '0-0')
redis.call('ZREM', KEYS[2], '')
redis.call('HDEL', KEYS[3], '')
redis.call('XRANGE', KEYS[1], '0-1', '0-1')
local lease = redis.call('HMGET', KEYS[4], 'token', 'moves', 'moved_over')
if lease[1] then
    redis.call('HSET', KEYS[4], 'token', lease[1]) -- changes nothing
end
local retries = redis.call('ZRANGE', KEYS[2], 0, -1)
if not delivered then
    redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], position)
end
local seen = position
local rows = redis.call('XPENDING', KEYS[1], ARGV[1], '(' .. seen, '+', 500)
redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], position)
while true do
    for _, row in ipairs(rows) do
        seen = row[1]
        if redis.call('XRANGE', KEYS[1], seen, seen)[1] then
            redis.call('XACK', KEYS[1], ARGV[1], seen)
        end
    end
    if #rows < 500 then
        break
    end
    rows = redis.call('XPENDING', KEYS[1], ARGV[1], '(' .. seen, '+', 500)
end
for _, id in ipairs(retries) do
    local number = string.match(id, '^%d+%-%d+$') -- else it was tampered with, and the group's next TakeDue sets it aside
    if number and above(id, position) and redis.call('XRANGE', KEYS[1], id, id)[1] then
        redis.call('ZREM', KEYS[2], id)
        redis.call('HDEL', KEYS[3], id)
    end
end
if lease[1] then
    local token = math.max((whole(lease[1]) or 0) + 1, time[1] * 1000000 + time[2]) -- M6
    local lowest, highest = string.match(lease[3] or '', '^(%d+%-%d+) (%d+%-%d+)$')
    lowest = lowest and above(position, lowest) and lowest or position
    delivered = delivered or last -- a group that was lost may have been anywhere
    highest = highest and above(highest, delivered) and highest or delivered
    local moves = (whole(lease[2]) or 0) + 1 -- moved entries were not handled
    redis.call('HSET', KEYS[4], 'token', string.format('%.0f', token), 'moves', string.format('%.0f', moves),
        'moved_over', lowest .. ' ' .. highest)
    redis.pcall('SPUBLISH', ARGV[3], '') -- a hint: its failure must not fail the step
end
return 1
