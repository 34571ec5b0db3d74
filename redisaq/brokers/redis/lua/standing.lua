-- Returns what a group has of one entry.
-- KEYS: stream, lease, retry, bodies of retry.
-- ARGV: group, entry id.
-- Answers: the last delivered id ('0-0' without the group), the holder or nil, now in ms, deliveries and ms since the last one if it is
--       pending or nil and nil, its score in retry or nil, its body there or nil.

local time = redis.call('TIME')
local last, row = '0-0', nil
if redis.call('EXISTS', KEYS[1]) == 1 then
    for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
        local facts = facts_of(group)
        if facts.name == ARGV[1] then
            last = facts['last-delivered-id']
            row = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1)[1]
        end
    end
end
return {
    last, redis.call('HGET', KEYS[2], 'holder'), time[1] * 1000 + math.floor(time[2] / 1000),
    row and row[4] or false, row and row[3] or false,
    redis.call('ZSCORE', KEYS[3], ARGV[2]), redis.call('HGET', KEYS[4], ARGV[2]),
}
