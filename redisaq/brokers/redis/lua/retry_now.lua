-- Lets messages of retry that are not due yet be due now.
-- KEYS: retry, lease.
-- ARGV: channel, the most, then their entry ids (none: all).
-- Answers: how many there were. They keep their order (those of one time that of ARGV), and their new times are past those that are due
--       already and those of earlier calls and of redrive (`redriven` in the lease).

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local bound = string.format('%.0f', now)
local found = {}
if #ARGV == 2 then
    local rows = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. bound, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
    for i = 1, #rows, 2 do
        found[#found + 1] = rows[i]
    end
else
    local scores, places = {}, {}
    for i = 3, #ARGV do
        local id = ARGV[i]
        local score = tonumber(redis.call('ZSCORE', KEYS[1], id) or 0)
        if score > now and not scores[id] and #found < tonumber(ARGV[2]) then
            found[#found + 1] = id
            scores[id], places[id] = score, i
        end
    end
    table.sort(found, function(one, other)
        return scores[one] < scores[other] or (scores[one] == scores[other] and places[one] < places[other])
    end)
end
if #found == 0 then
    return 0
end
local due = now - #found
local last = redis.call('ZRANGE', KEYS[1], bound, '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, 1, 'WITHSCORES')[2]
due = math.max(due, tonumber(last or 0))
local redriven = whole(redis.call('HGET', KEYS[2], 'redriven')) or 0
if redriven > due and redriven < now + 3600000000 then -- an hour ahead of the clock: redisaq did not write that
    due = redriven
end
-- S2: these write nothing, but let the rest succeed when memory is full, or fail before it.
redis.call('ZREM', KEYS[1], '')
redis.call('ZADD', KEYS[1], 'XX', 0, '')
redis.call('HSET', KEYS[2], 'redriven', string.format('%.0f', due + #found))
for _, id in ipairs(found) do
    due = due + 1
    redis.call('ZADD', KEYS[1], 'XX', string.format('%.0f', due), id)
end
redis.pcall('SPUBLISH', ARGV[1], '') -- a hint: its failure must not fail the step
return #found
