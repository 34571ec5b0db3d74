-- Lets heartbeats say that somebody watches the group.
-- KEYS: state.
-- ARGV: for how many milliseconds.
-- Nothing is done to a group that has no document.

redis.call('HDEL', KEYS[1], '') -- S2: writes nothing, but lets the rest succeed when memory is full
if redis.call('HGET', KEYS[1], 'version') then
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    redis.call('HSET', KEYS[1], 'watched', string.format('%.0f', now + ARGV[1]))
end
