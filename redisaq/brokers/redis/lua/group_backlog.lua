-- Counts what a group could work on now in one partition.
-- KEYS: stream, retry, delayed.
-- ARGV: group.
-- Answers: how many entries are unread or pending, how many messages of retry are due, how many delayed ones.

local time = redis.call('TIME')
local now = time[1] .. string.format('%06d', time[2])
local waiting = redis.call('XLEN', KEYS[1]) -- without the group, all of it is unread
if redis.call('EXISTS', KEYS[1]) == 1 then
    for _, row in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
        local facts = facts_of(row)
        if facts.name == ARGV[1] then
            waiting = unread(KEYS[1], facts, math.huge) + facts.pending
        end
    end
end
return {waiting, redis.call('ZCOUNT', KEYS[2], '-inf', now), redis.call('ZCOUNT', KEYS[3], '-inf', now)}
