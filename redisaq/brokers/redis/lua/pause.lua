-- Pauses or resumes a group.
-- KEYS: state, history.
-- ARGV: channel, '1' to pause or '0' to resume, the change for the history, or ''.

redis.call('HDEL', KEYS[1], '') -- S2: writes nothing, but lets the rest succeed when memory is full
if ARGV[2] == '1' then
    redis.call('HSET', KEYS[1], 'paused', '1')
else
    redis.call('HDEL', KEYS[1], 'paused')
end
note(KEYS[2], ARGV[3])
redis.pcall('SPUBLISH', ARGV[1], '') -- a hint: its failure must not fail the step
return 1
