-- Acknowledges entries under a token (S1).
-- KEYS: stream, lease.
-- ARGV: group, token, then ids.
-- Answers: the current token, nil if there is none. Nothing is done unless it is the caller's; then `moved_over` or nil follows (S5).

local token = redis.call('HGET', KEYS[2], 'token')
if token == ARGV[2] then
    for i = 3, #ARGV, 1000 do -- unpack fails above some 7,000 values
        redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, i, math.min(i + 999, #ARGV)))
    end
    return token
end
return {token, redis.call('HGET', KEYS[2], 'moved_over')}
