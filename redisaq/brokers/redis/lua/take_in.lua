-- Gives dead letters of another partition a new life here, each once, due now, in the order given (G8).
-- KEYS: stream, retry, bodies of retry, lease, adopted.
-- ARGV: channel, the group and the partition that they come from, for how long the marks stay in ms, then for each: its id among the dead
--       letters there, the id that it has here, its new body.
-- Answers: the run of the server. The due times of those that are new here grow as those of redrive.lua.

redis.call('XLEN', KEYS[1]) -- refused if the stream was cut since their place was chosen
local run = this_run()
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local due = now - (#ARGV - 3) / 3
local lease = redis.call('HMGET', KEYS[4], 'redriven', 'again')
local last = whole(lease[1]) or 0
if last > due and last < now + 3600000000 then -- an hour ahead of the clock: redisaq did not write that
    due = last
end
-- S2: these write nothing, but let the rest succeed when memory is full, or fail before it.
redis.call('PEXPIRE', KEYS[5], ARGV[3])
redis.call('HEXISTS', KEYS[5], '')
redis.call('ZADD', KEYS[2], 'XX', 0, '')
local new = 0
for i = 4, #ARGV, 3 do
    local mark = ARGV[2] .. ':' .. ARGV[i]
    local marked = redis.call('HEXISTS', KEYS[5], mark) == 1
    if not marked and not redis.call('ZSCORE', KEYS[2], ARGV[i + 1]) then -- a version that leaves no marks may have put it here
        new, due = new + 1, due + 1
        redis.call('HSET', KEYS[3], ARGV[i + 1], ARGV[i + 2])
        redis.call('ZADD', KEYS[2], string.format('%.0f', due), ARGV[i + 1])
    end
    if not marked then
        redis.call('HSET', KEYS[5], mark, '1')
        redis.call('PEXPIRE', KEYS[5], ARGV[3])
    end
end
if new > 0 then
    local again = string.format('%.0f', (whole(lease[2]) or 0) + new)
    redis.call('HSET', KEYS[4], 'redriven', string.format('%.0f', due), 'again', again)
    redis.pcall('SPUBLISH', ARGV[1], '') -- a hint: its failure must not fail the step
end
return run
