-- Moves dead letters to retry: their next life, due now, in the order given.
-- KEYS: dead, retry, bodies of retry, lease, stream.
-- ARGV: channel, then for each: its id in dead, its entry id, its new body.
-- Answers: how many were there. Their due times grow, also past those of earlier calls (`redriven` in the lease), so the order is kept.
--       `again` in the lease counts the messages that were put back into retry.

redis.call('XLEN', KEYS[5]) -- refused if the stream was cut since it was decided that they belong here
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local due = now - (#ARGV - 1) / 3
local last = whole(redis.call('HGET', KEYS[4], 'redriven')) or 0
if last > due and last < now + 3600000000 then -- an hour ahead of the clock: redisaq did not write that
    due = last
end
-- S2: these write nothing, but let the rest succeed when memory is full, or fail before it.
redis.call('XDEL', KEYS[1], '0-0')
redis.call('ZADD', KEYS[2], 'XX', 0, '')
local redriven, again = 0, 0
for i = 2, #ARGV, 3 do
    if redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1] then
        due = due + 1
        redriven = redriven + 1
        if not redis.call('ZSCORE', KEYS[2], ARGV[i + 1]) then
            again = again + 1
            redis.call('HSET', KEYS[3], ARGV[i + 1], ARGV[i + 2])
            redis.call('ZADD', KEYS[2], string.format('%.0f', due), ARGV[i + 1])
        end
        redis.call('XDEL', KEYS[1], ARGV[i])
    end
end
if redriven > 0 then
    again = again + (whole(redis.call('HGET', KEYS[4], 'again')) or 0)
    redis.call('HSET', KEYS[4], 'redriven', string.format('%.0f', due), 'again', string.format('%.0f', again))
    redis.pcall('SPUBLISH', ARGV[1], '') -- a hint: its failure must not fail the step
end
return redriven
