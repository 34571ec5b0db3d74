-- Counts a partition's entries that its slowest group has not been given; all of them if it has no group.
-- KEYS: stream.
-- ARGV: enough: above this number the count need not be exact; and fits: if there are no more entries than this, their number is answered.
-- Only entries that are still there count. If the server does not know a group's lag (after deletions, or a seek), the entries are counted
-- in pages, up to `enough`.

local length = redis.call('XLEN', KEYS[1])
if length <= tonumber(ARGV[2]) then
    return length
end
local groups = redis.call('XINFO', 'GROUPS', KEYS[1])
if #groups == 0 then
    return length
end
local most = 0
for _, row in ipairs(groups) do
    most = math.max(most, unread(KEYS[1], facts_of(row), tonumber(ARGV[1])))
end
return most
