-- Gives a partition back: clears holder and readers, keeps the token (M8).
-- KEYS: lease.
-- ARGV: token.
-- Answers: 1, or 0 if another token is current.

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
    return 0
end
local fields = redis.call('HKEYS', KEYS[1])
redis.call('HDEL', KEYS[1], 'holder')
for _, field in ipairs(fields) do
    if string.sub(field, 1, 7) == 'reader:' then
        redis.call('HDEL', KEYS[1], field)
    end
end
return 1
