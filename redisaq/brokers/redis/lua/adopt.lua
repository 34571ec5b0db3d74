-- Keeps delayed messages of another partition, each once (G8). Rings if one is due before all others.
-- KEYS: stream, adopted, delayed, bodies of delayed.
-- ARGV: channel, the partition that they come from, for how long the marks stay in ms, then id, due, body, id, due, body ...
-- Answers: the run of the server.

redis.call('XLEN', KEYS[1]) -- refused if the stream was cut since their place was chosen
local run = this_run()
local before = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]
-- S2: these write nothing, but let the rest succeed when memory is full, or fail before it. What is adopted is in memory already.
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('ZADD', KEYS[3], 'XX', 0, '')
for i = 4, #ARGV, 3 do
    local mark = ARGV[2] .. ':' .. ARGV[i]
    if redis.call('HEXISTS', KEYS[2], mark) == 0 then
        redis.call('HSET', KEYS[4], ARGV[i], ARGV[i + 2])
        redis.call('ZADD', KEYS[3], 'NX', ARGV[i + 1], ARGV[i])
        redis.call('HSET', KEYS[2], mark, '1')
    end
end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
local first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]
if first and (not before or tonumber(first) < tonumber(before)) then
    redis.pcall('SPUBLISH', ARGV[1], '') -- a hint: its failure must not fail the step
end
return run
