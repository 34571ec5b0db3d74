-- Drops a message of retry.
-- KEYS: retry, bodies of retry, lease.
-- ARGV: entry id.
-- Answers: 1, or 0 if it is not there. `moves` in the lease counts this like a seek, once the partition has had an owner: the message was
--       not handled.

-- S2: these write nothing, but let the rest succeed when memory is full, or fail before it.
redis.call('HDEL', KEYS[2], '')
local lease = redis.call('HMGET', KEYS[3], 'token', 'moves')
if lease[1] then
    redis.call('HSET', KEYS[3], 'token', lease[1]) -- changes nothing
end
local there = math.max(redis.call('ZREM', KEYS[1], ARGV[1]), redis.call('HDEL', KEYS[2], ARGV[1]))
if there == 1 and lease[1] then
    redis.call('HSET', KEYS[3], 'moves', string.format('%.0f', (whole(lease[2]) or 0) + 1))
end
return there
