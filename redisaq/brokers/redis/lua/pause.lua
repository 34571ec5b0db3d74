-- Pauses or resumes a group. `paused_at` in the state is since when it has been paused, in ms.
-- KEYS: state, history.
-- ARGV: channel, '1' to pause or '0' to resume, the change for the history, or ''.

redis.call('HDEL', KEYS[1], '') -- S2: writes nothing, but lets the rest succeed when memory is full
if ARGV[2] == '1' then
    local time = redis.call('TIME')
    local before = redis.call('HMGET', KEYS[1], 'paused', 'paused_at') -- an older version resumes without removing the second
    local since = before[1] and before[2] or time[1] .. string.format('%03d', math.floor(time[2] / 1000))
    redis.call('HSET', KEYS[1], 'paused', '1', 'paused_at', since)
else
    redis.call('HDEL', KEYS[1], 'paused', 'paused_at')
end
note(KEYS[2], ARGV[3])
redis.pcall('SPUBLISH', ARGV[1], '') -- a hint: its failure must not fail the step
