-- Appends a message unless the caller's own id was used within its window; the mark holds the message id, so that a repeated call knows its own (E7).
-- KEYS: mark, stream. ARGV: message id, the window in milliseconds, MAXLEN's operator ('' for no trimming) and length, then the entry's fields.
-- Answers the message id that stands, or nil if there is no stream.

local standing = redis.call('GET', KEYS[1])
if standing then
    return standing
end
local words = {KEYS[2], 'NOMKSTREAM'}
if ARGV[3] ~= '' then
    words[3], words[4], words[5] = 'MAXLEN', ARGV[3], ARGV[4]
end
words[#words + 1] = '*'
for i = 5, #ARGV do
    words[#words + 1] = ARGV[i]
end
-- XADD first: where memory is full, nothing happens.
if not redis.call('XADD', unpack(words)) then
    return false
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
