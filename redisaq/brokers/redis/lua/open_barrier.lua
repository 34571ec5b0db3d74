-- Notes under a token for which growth a group has opened a partition (G4).
-- KEYS: lease.
-- ARGV: token, the growth.
-- Answers: 1, or 0 if another token is current.

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
    return 0
end
redis.call('HDEL', KEYS[1], '') -- S2: writes nothing, but lets the rest succeed when memory is full
redis.call('HSET', KEYS[1], 'open', ARGV[2])
return 1
