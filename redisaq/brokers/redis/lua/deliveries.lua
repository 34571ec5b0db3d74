-- Sets the delivery counts of pending entries (T5). KEYS: stream, lease. ARGV: group, token, then id, count, id, count ...
-- Answers 1, or 0 if another token stands. Ids that are not pending are passed over: XCLAIM without FORCE makes none pending.

if redis.call('HGET', KEYS[2], 'token') ~= ARGV[2] then
    return 0
end
for i = 3, #ARGV, 2 do
    -- XCLAIM would drop a pending id whose body is gone without a word; a claim reports it.
    if redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1] then
        redis.call('XCLAIM', KEYS[1], ARGV[1], 'owner', 0, ARGV[i], 'RETRYCOUNT', ARGV[i + 1], 'JUSTID')
    end
end
return 1
