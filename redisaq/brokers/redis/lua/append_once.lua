-- Appends a message, or delays it, unless the caller's own id was used within its window. The mark holds the message id, so a repeated
-- call recognizes its own message (E7).
-- KEYS: mark, stream, delayed, bodies of delayed.
-- ARGV: message id, the window in ms, MAXLEN's operator ('' for no trimming) and length, when it is due in us ('' for now), the
--       partition's doorbell, its delayed body, then the entry's fields.
-- Answers: the message id in the mark, or nil if there is no stream.

local standing = redis.call('GET', KEYS[1])
if standing then
    return standing
end
local due = ARGV[5]
redis.call('SET', KEYS[1], ARGV[1], 'XX', 'PX', ARGV[2]) -- S2: writes nothing; if the server refuses it, nothing has happened
if due ~= '' then
    redis.call('XLEN', KEYS[2]) -- refused if the stream was cut (E6)
    if redis.call('EXISTS', KEYS[2]) == 0 then
        return false
    end
    local first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]
    redis.call('ZADD', KEYS[3], 'XX', due, '') -- S2: as above
    redis.call('HSET', KEYS[4], ARGV[1], ARGV[7])
    redis.call('ZADD', KEYS[3], due, ARGV[1])
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
    if not first or tonumber(due) < tonumber(first) then
        redis.pcall('SPUBLISH', ARGV[6], '') -- a hint: its failure must not fail the step
    end
    return ARGV[1]
end
local words = {KEYS[2], 'NOMKSTREAM'}
if ARGV[3] ~= '' then
    words[3], words[4], words[5] = 'MAXLEN', ARGV[3], ARGV[4]
end
words[#words + 1] = '*'
for i = 8, #ARGV do
    words[#words + 1] = ARGV[i]
end
if not redis.call('XADD', unpack(words)) then
    return false
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
