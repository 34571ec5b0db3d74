-- Returns one page of a group's pending entries, in id order, for an administrator.
-- KEYS: stream, lease.
-- ARGV: group, the id to start after ('' for the first), how many.
-- Answers: the holder or nil, now in ms, and the entries: each its id, deliveries, ms since it was delivered, its fields or nil if they are
--       gone.

local time = redis.call('TIME')
local rows, entries = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[2] == '' and '-' or '(' .. ARGV[2], '+', ARGV[3]), {}
if rows.err then
    if not string.find(rows.err, 'NOGROUP') then
        return rows
    end
    rows = {}
end
for _, row in ipairs(rows) do
    local found = redis.call('XRANGE', KEYS[1], row[1], row[1])[1]
    entries[#entries + 1] = {row[1], row[4], row[3], found and found[2] or false}
end
return {redis.call('HGET', KEYS[2], 'holder'), time[1] * 1000 + math.floor(time[2] / 1000), entries}
