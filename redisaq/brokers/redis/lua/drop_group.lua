-- Removes a group from a partition.
-- KEYS: stream, lease, retry, bodies of retry, dead.
-- ARGV: group.

if redis.call('EXISTS', KEYS[1]) == 1 then
    redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
end
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
