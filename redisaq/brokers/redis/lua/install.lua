-- Puts a fencing token beside a partition's data (T2). Refused while another incarnation holds it, unless that is allowed (M7, M8).
-- KEYS: lease.
-- ARGV: token, incarnation, '1' if another incarnation may be replaced.
-- Answers: done, the current token or nil, the holder before, the readers registered before (field, address, ...), `moved_over` or nil, which
--       tells what a seek has moved that has spent the token (S5), and for which growth the group has opened the partition or nil. A token
--       that is not a number counts as none.

local lease = redis.call('HMGET', KEYS[1], 'token', 'holder', 'moved_over', 'open')
local token, holder = whole(lease[1]) and lease[1] or false, lease[2] or ''
local again = token == ARGV[1] and holder == ARGV[2]
local greater = not token or tonumber(ARGV[1]) > whole(token)
local free = ARGV[3] == '1' or holder == '' or holder == ARGV[2]
if not again and not (greater and free) then
    return {0, token, holder, {}, lease[3], lease[4]}
end
-- The predecessor's readers stay until they are fenced: a repeated install must return them again (T3).
local readers = {}
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 7) == 'reader:' then
        readers[#readers + 1] = fields[i]
        readers[#readers + 1] = fields[i + 1]
    end
end
redis.call('HDEL', KEYS[1], '') -- S2: writes nothing, but lets the rest succeed when memory is full
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'holder', ARGV[2])
redis.call('HDEL', KEYS[1], 'moved_over')
return {1, ARGV[1], holder, readers, false, lease[4]}
