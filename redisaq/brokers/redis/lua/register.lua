-- Registers a reading connection under the token and its holder, before its first read (T3).
-- KEYS: lease.
-- ARGV: token, incarnation, the reader's field, its address.
-- Answers: 1, or 0 if the token is not current or was released.

redis.call('HDEL', KEYS[1], '') -- S2: writes nothing, but lets the rest succeed when memory is full
local lease = redis.call('HMGET', KEYS[1], 'token', 'holder')
if lease[1] ~= ARGV[1] or lease[2] ~= ARGV[2] then
    return 0
end
redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
return 1
