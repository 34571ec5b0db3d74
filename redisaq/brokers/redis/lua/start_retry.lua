-- Records that a handler begins on a message of retry: raises the attempt that its body begins with.
-- KEYS: lease, bodies of retry.
-- ARGV: token, entry id, how the body begins before, and how it begins after.
-- Answers: 1, also if that was done before; or 0 if another token is current, if this one was released (T5: a late step must not undo what
--       was handed back), or if the message is not there with that beginning.

redis.call('HDEL', KEYS[2], '') -- S2: writes nothing, but lets the rest succeed when memory is full
local lease = redis.call('HMGET', KEYS[1], 'token', 'holder')
if lease[1] ~= ARGV[1] or not lease[2] then
    return 0
end
local body = redis.call('HGET', KEYS[2], ARGV[2])
if not body then
    return 0
end
if string.sub(body, 1, #ARGV[3]) == ARGV[3] then
    redis.call('HSET', KEYS[2], ARGV[2], ARGV[4] .. string.sub(body, #ARGV[3] + 1))
    return 1
end
return string.sub(body, 1, #ARGV[4]) == ARGV[4] and 1 or 0
