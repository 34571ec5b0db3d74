-- Returns one page of pending entries, in id order, without changing a delivery count (T5).
-- KEYS: stream, lease.
-- ARGV: group, token, the id to start after ('' for the first), how many.
-- Answers: nil if another token is current, else: entries (each id, deliveries, fields), ids whose bodies are gone, the page's last id or
--       nil if nothing follows.

if redis.call('HGET', KEYS[2], 'token') ~= ARGV[2] then
    return false
end
local count = tonumber(ARGV[4])
local start = ARGV[3] == '' and '-' or '(' .. ARGV[3]
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], start, '+', count + 1) -- one more shows whether another page follows
local last = false
if #pending > count then
    pending[#pending] = nil
    last = pending[count][1]
end
local entries, trimmed = {}, {}
for _, row in ipairs(pending) do
    local found = redis.call('XRANGE', KEYS[1], row[1], row[1])
    if found[1] then
        entries[#entries + 1] = {row[1], row[4], found[1][2]}
    else
        trimmed[#trimmed + 1] = row[1] -- its body is gone, so it cannot be handled any more
    end
end
if #trimmed > 0 then
    redis.call('XACK', KEYS[1], ARGV[1], '0-0') -- S2: writes nothing, but lets the rest succeed, or fails before it
    redis.call('HSET', KEYS[2], 'lost', string.format('%.0f', (whole(redis.call('HGET', KEYS[2], 'lost')) or 0) + #trimmed))
    for _, id in ipairs(trimmed) do
        redis.call('XACK', KEYS[1], ARGV[1], id)
    end
end
return {entries, trimmed, last}
