-- Returns what a partition holds.
-- KEYS: stream, delayed.
-- Answers: entries, how many messages are delayed, the names of the groups, how many entries were ever added.

local names, added = {}, 0
if redis.call('EXISTS', KEYS[1]) == 1 then
    added = facts_of(redis.call('XINFO', 'STREAM', KEYS[1]))['entries-added']
    for _, row in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
        names[#names + 1] = facts_of(row).name
    end
end
return {redis.call('XLEN', KEYS[1]), redis.call('ZCARD', KEYS[2]), names, added}
