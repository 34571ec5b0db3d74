-- Notes how many pending entries the owner has set aside as unreadable. KEYS: lease. ARGV: token, count.
-- Answers 1, or 0 if another token stands.

redis.call('HDEL', KEYS[1], '') -- S2: writes nothing, but lets the rest pass whole when memory is full
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
    return 0
end
redis.call('HSET', KEYS[1], 'unreadable', ARGV[2])
return 1
