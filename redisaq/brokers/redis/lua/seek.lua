-- Sets a group's position.
-- KEYS: stream, retry, bodies of retry, lease.
-- ARGV: group, position ('$': the end).
-- Entries after the position that were delivered before become new again: they leave the pending entries and retry, unless they are no
-- longer in the stream. `moves` in the lease counts the calls, once the partition has had an owner.

local last, there = '0-0', false
if redis.call('EXISTS', KEYS[1]) == 1 then
    local info = redis.call('XINFO', 'STREAM', KEYS[1])
    for i = 1, #info, 2 do
        if info[i] == 'last-generated-id' then
            last = info[i + 1]
        end
    end
    for _, row in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
        for i = 1, #row, 2 do
            there = there or (row[i] == 'name' and row[i + 1] == ARGV[1])
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
local lease = redis.call('HMGET', KEYS[4], 'token', 'moves')
if lease[1] then
    redis.call('HSET', KEYS[4], 'token', lease[1]) -- changes nothing
end
local retries = redis.call('ZRANGE', KEYS[2], 0, -1)
if not there then
    redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], position, 'MKSTREAM')
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
if lease[1] then -- moved entries were not handled
    redis.call('HSET', KEYS[4], 'moves', string.format('%.0f', (whole(lease[2]) or 0) + 1))
end
return 1
