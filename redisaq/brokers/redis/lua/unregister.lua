-- Removes killed readers from the list (T3).
-- KEYS: lease.
-- ARGV: token, then the readers' fields.
-- Answers: 1, or 0 if another token is current.

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
    return 0
end
for i = 2, #ARGV do
    redis.call('HDEL', KEYS[1], ARGV[i])
end
return 1
