-- Returns what a partition still holds for a group.
-- KEYS: stream, retry, delayed.
-- ARGV: group.
-- Answers: 1 if an entry was never delivered else 0, how many are pending, how many are to be tried again, how many are delayed.

local retry, delayed = redis.call('ZCARD', KEYS[2]), redis.call('ZCARD', KEYS[3])
if redis.call('EXISTS', KEYS[1]) == 0 then
    return {0, 0, retry, delayed}
end
local last, pending = '0-0', 0 -- without the group, everything is unread
for _, row in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local info = {}
    for i = 1, #row, 2 do
        info[row[i]] = row[i + 1]
    end
    if info.name == ARGV[1] then
        last, pending = info['last-delivered-id'], info.pending
    end
end
local unread = redis.call('XRANGE', KEYS[1], '(' .. last, '+', 'COUNT', 1)
return {#unread, pending, retry, delayed}
