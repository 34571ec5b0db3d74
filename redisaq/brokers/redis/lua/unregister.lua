-- Removes killed readers from the list (T3).
-- KEYS: lease.
-- ARGV: token, then the readers' fields.
-- Nothing is done if another token is current.

if redis.call('HGET', KEYS[1], 'token') == ARGV[1] then
    for i = 2, #ARGV do
        redis.call('HDEL', KEYS[1], ARGV[i])
    end
end
