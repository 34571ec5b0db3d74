-- Keeps messages until they are due, each once by its id. Rings if one is due before all others.
-- KEYS: stream, delayed, bodies of delayed.
-- ARGV: channel, then id, due, body, id, due, body ...
-- Answers: 1, or 0 if the stream is missing (E5); then nothing is kept. When memory is full, all of it is refused.

redis.call('XLEN', KEYS[1]) -- refused if the stream was cut (E6)
if redis.call('EXISTS', KEYS[1]) == 0 then
    return 0
end
local before = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
redis.call('ZADD', KEYS[2], 'XX', 0, '') -- S2: writes nothing; if the server refuses it, nothing has happened
for i = 2, #ARGV, 3 do
    if not redis.call('ZSCORE', KEYS[2], ARGV[i]) then
        redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 2])
        redis.call('ZADD', KEYS[2], ARGV[i + 1], ARGV[i])
    end
end
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
if first and (not before or tonumber(first) < tonumber(before)) then
    redis.pcall('SPUBLISH', ARGV[1], '') -- a hint: its failure must not fail the step
end
return 1
