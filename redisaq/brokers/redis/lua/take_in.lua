-- Gives dead letters of another partition a new life here, due now, in the order given (G8).
-- KEYS: stream, retry, bodies of retry, lease.
-- ARGV: channel, then for each: the id that it has here, its new body.
-- Answers: the run of the server. The due times of those that are new here grow as those of redrive.lua.

redis.call('XLEN', KEYS[1]) -- refused if the stream was cut since their place was chosen
local run = this_run()
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local due = now - (#ARGV - 1) / 2
local lease = redis.call('HMGET', KEYS[4], 'redriven', 'again')
local last = whole(lease[1]) or 0
if last > due and last < now + 3600000000 then -- an hour ahead of the clock: redisaq did not write that
    due = last
end
-- S2: these write nothing, but let the rest succeed when memory is full, or fail before it.
redis.call('HDEL', KEYS[3], '')
redis.call('HDEL', KEYS[4], '')
redis.call('ZADD', KEYS[2], 'XX', 0, '')
local new = 0
for i = 2, #ARGV, 2 do
    if not redis.call('ZSCORE', KEYS[2], ARGV[i]) then
        new, due = new + 1, due + 1
        redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
        redis.call('ZADD', KEYS[2], string.format('%.0f', due), ARGV[i])
    end
end
if new > 0 then
    local again = string.format('%.0f', (whole(lease[2]) or 0) + new)
    redis.call('HSET', KEYS[4], 'redriven', string.format('%.0f', due), 'again', again)
    redis.pcall('SPUBLISH', ARGV[1], '') -- a hint: its failure must not fail the step
end
return run
