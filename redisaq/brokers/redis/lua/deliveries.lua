-- Sets the delivery counts of pending entries (T5).
-- KEYS: stream, lease.
-- ARGV: group, token, '1' to lower no count, then id, count, id, count ...
-- Answers: 1, or 0 if another token is current, or if this is a raise and the token was released: a late raise must not undo what was
--       handed back. Ids that are not pending are ignored: XCLAIM without FORCE makes none pending.

local lease = redis.call('HMGET', KEYS[2], 'token', 'holder')
local raising = ARGV[3] == '1'
if lease[1] ~= ARGV[2] or (raising and not lease[2]) then
    return 0
end
for i = 4, #ARGV, 2 do
    local pending = raising and redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)[1]
    local enough = pending and pending[4] >= tonumber(ARGV[i + 1])
    -- XCLAIM would silently drop a pending id whose body is gone; leave it, so that a claim reports it.
    if not enough and redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1] then
        redis.call('XCLAIM', KEYS[1], ARGV[1], 'owner', 0, ARGV[i], 'RETRYCOUNT', ARGV[i + 1], 'JUSTID')
    end
end
return 1
