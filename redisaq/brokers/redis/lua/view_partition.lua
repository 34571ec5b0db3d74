-- Returns what one partition holds for a group.
-- KEYS: stream, lease, retry, delayed, dead.
-- ARGV: group, how many pending entries to count deliveries of.
-- Answers: 1 if the group is in the stream else 0, entries, how many of them were never delivered, how many are pending, how many are to
--       be tried again, dead, delayed, token or nil, holder or nil, last delivered id, delivery counts (count, how many have it, count,
--       how many ...), how many entries trimming took from the group, or nil, how many entries were ever added, how many messages ever died,
--       how many were redriven, or nil, how often a seek moved the group, or nil, the ids of the oldest entry that was never delivered and
--       of the oldest pending one, or nil, when the next retry is due in us, or nil, now in us (text: a Lua number would lose digits, M6).

local lease = redis.call('HMGET', KEYS[2], 'token', 'holder', 'lost', 'again', 'moves')
local time = redis.call('TIME')
local length = redis.call('XLEN', KEYS[1])
local there, last, pending, fresh, counts = 0, '0-0', 0, length, {}
local added, died, oldest, oldest_pending = 0, 0, false, false
if redis.call('EXISTS', KEYS[1]) == 1 then
    added = facts_of(redis.call('XINFO', 'STREAM', KEYS[1]))['entries-added']
    for _, row in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
        local facts = facts_of(row)
        if facts.name == ARGV[1] then
            there, last, pending, fresh = 1, facts['last-delivered-id'], facts.pending, unread(KEYS[1], facts, math.huge)
        end
    end
end
if fresh > 0 then
    local first = redis.call('XRANGE', KEYS[1], '(' .. last, '+', 'COUNT', 1)[1]
    oldest = first and first[1]
end
if pending > 0 then
    oldest_pending = redis.call('XPENDING', KEYS[1], ARGV[1])[2]
end
if pending > 0 and tonumber(ARGV[2]) > 0 then
    local places = {}
    for _, row in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', ARGV[2])) do
        local place = places[row[4]]
        if place then
            counts[place] = counts[place] + 1
        else
            counts[#counts + 1] = row[4]
            counts[#counts + 1] = 1
            places[row[4]] = #counts
        end
    end
end
if redis.call('EXISTS', KEYS[5]) == 1 then
    died = facts_of(redis.call('XINFO', 'STREAM', KEYS[5]))['entries-added']
end
return {
    there, length, fresh, pending, redis.call('ZCARD', KEYS[3]), redis.call('XLEN', KEYS[5]),
    redis.call('ZCARD', KEYS[4]), lease[1], lease[2], last, counts,
    lease[3], added, died, lease[4], lease[5], oldest, oldest_pending, redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2] or false,
    time[1] .. string.format('%06d', time[2]),
}
