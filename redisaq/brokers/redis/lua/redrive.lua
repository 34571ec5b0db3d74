-- Lets dead letters begin their next life in retry, due now, in the order given.
-- KEYS: dead, retry, bodies of retry, lease. ARGV: channel, then for each: its id in dead, its entry id, the body kept.
-- Answers how many were there. Their due times grow, also beyond those of earlier calls (`redriven` beside the lease), so order is kept.

local time = redis.call('TIME')
local due = time[1] * 1000000 + time[2] - (#ARGV - 1) / 3
local last = tonumber(redis.call('HGET', KEYS[4], 'redriven') or '0')
if last > due then
    due = last
end
local redriven = 0
for i = 2, #ARGV, 3 do
    if redis.call('XDEL', KEYS[1], ARGV[i]) == 1 then -- first, so it passes whole when memory is full (S2)
        due = due + 1
        redriven = redriven + 1
        if redis.call('ZADD', KEYS[2], 'NX', string.format('%.0f', due), ARGV[i + 1]) == 1 then
            redis.call('HSET', KEYS[3], ARGV[i + 1], ARGV[i + 2])
        end
    end
end
if redriven > 0 then
    redis.call('HSET', KEYS[4], 'redriven', string.format('%.0f', due))
    redis.call('SPUBLISH', ARGV[1], '')
end
return redriven
