-- Keeps messages until they are due, each once by its id; rings if one is due before what was there.
-- KEYS: stream, delayed, bodies of delayed. ARGV: channel, then id, due, body, id, due, body ...
-- Answers 1, or 0 if the stream is missing (E5); then nothing is kept. It begins with ZADD, so it is refused whole when memory is full.

if redis.call('EXISTS', KEYS[1]) == 0 then
    return 0
end
local before = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
for i = 2, #ARGV, 3 do
    if redis.call('ZADD', KEYS[2], 'NX', ARGV[i + 1], ARGV[i]) == 1 then
        redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 2])
    end
end
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
if first and (not before or tonumber(first) < tonumber(before)) then
    redis.call('SPUBLISH', ARGV[1], '')
end
return 1
