-- Drops a delayed message.
-- KEYS: delayed, bodies of delayed.
-- ARGV: message id.
-- Answers: 1, or 0 if it is not there.

redis.call('HDEL', KEYS[2], '') -- S2: writes nothing, but fails before anything is done
local there = redis.call('ZREM', KEYS[1], ARGV[1])
return math.max(there, redis.call('HDEL', KEYS[2], ARGV[1]))
