-- Replaces what is stored of a cron job.
-- KEYS: schedules.
-- ARGV: job, what was read, what to store; '' for nothing.
-- Answers: 1 if it is stored now, 0 if something else had been stored meanwhile.

local kept = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if kept == ARGV[3] then
    return 1
elseif kept ~= ARGV[2] then
    return 0
end
redis.call('HDEL', KEYS[1], '') -- S2: writes nothing, but lets the rest pass whole when memory is full
if ARGV[3] == '' then
    redis.call('HDEL', KEYS[1], ARGV[1])
else
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
return 1
