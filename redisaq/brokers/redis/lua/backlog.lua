-- Counts a partition's entries that its slowest group has not been given; all of them if it has no group.
-- KEYS: stream.
-- ARGV: enough: above this number the count need not be exact.
-- Only entries that are still there count. If the server does not know a group's lag (after deletions, or a seek), the entries are counted
-- in pages, up to `enough`.

if redis.call('EXISTS', KEYS[1]) == 0 then
    return 0
end
local groups = redis.call('XINFO', 'GROUPS', KEYS[1])
local length = redis.call('XLEN', KEYS[1])
if #groups == 0 then
    return length
end
local enough = tonumber(ARGV[1])
local function count(after)
    local counted = 0
    while counted <= enough do
        local entries = redis.call('XRANGE', KEYS[1], '(' .. after, '+', 'COUNT', 100)
        counted = counted + #entries
        if #entries < 100 then
            break
        end
        after = entries[100][1]
    end
    return counted
end
local most = 0
for _, group in ipairs(groups) do
    local facts = {}
    for i = 1, #group, 2 do
        facts[group[i]] = group[i + 1]
    end
    -- The lag of some servers includes entries that were trimmed unread.
    most = math.max(most, math.min(facts['lag'] or count(facts['last-delivered-id']), length))
end
return most
