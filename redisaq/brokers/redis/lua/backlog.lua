-- How many entries a partition holds that its slowest group has not been given; all of them if it has no group.
-- KEYS: stream. The count is of entries that are there, so a lag that the server cannot tell (after deletions) costs one range read.

if redis.call('EXISTS', KEYS[1]) == 0 then
    return 0
end
local groups = redis.call('XINFO', 'GROUPS', KEYS[1])
if #groups == 0 then
    return redis.call('XLEN', KEYS[1])
end
local most = 0
for _, group in ipairs(groups) do
    local facts = {}
    for i = 1, #group, 2 do
        facts[group[i]] = group[i + 1]
    end
    local lag = facts['lag']
    if not lag then
        lag = #redis.call('XRANGE', KEYS[1], '(' .. facts['last-delivered-id'], '+')
    end
    lag = math.min(lag, redis.call('XLEN', KEYS[1])) -- some servers count what was trimmed before it was read
    if lag > most then
        most = lag
    end
end
return most
