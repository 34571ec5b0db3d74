-- Counts what a group could work on now in one partition.
-- KEYS: stream, retry, delayed.
-- ARGV: group.
-- Answers: how many entries are unread or pending, how many messages of retry are due, how many delayed ones.

local time = redis.call('TIME')
local now = time[1] .. string.format('%06d', time[2])
local waiting = redis.call('XLEN', KEYS[1]) -- without the group, all of it is unread
if waiting > 0 or redis.call('EXISTS', KEYS[1]) == 1 then
    for _, row in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
        local facts = facts_of(row)
        if facts.name == ARGV[1] then
            local lag = facts.lag
            if not lag then -- after deletions, or a seek, the server does not know the lag
                lag = 0
                local after = facts['last-delivered-id']
                while true do
                    local entries = redis.call('XRANGE', KEYS[1], '(' .. after, '+', 'COUNT', 500)
                    lag = lag + #entries
                    if #entries < 500 then
                        break
                    end
                    after = entries[500][1]
                end
            end
            waiting = math.min(lag, waiting) + facts.pending -- the lag of some servers includes entries that were trimmed unread
        end
    end
end
return {waiting, redis.call('ZCOUNT', KEYS[2], '-inf', now), redis.call('ZCOUNT', KEYS[3], '-inf', now)}
