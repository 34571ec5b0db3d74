-- Pauses a group, or lets it go on. KEYS: state. ARGV: channel, '1' to pause, '0' to go on.

redis.call('HDEL', KEYS[1], '') -- S2: writes nothing, but lets the rest pass whole when memory is full
if ARGV[2] == '1' then
    redis.call('HSET', KEYS[1], 'paused', '1')
else
    redis.call('HDEL', KEYS[1], 'paused')
end
redis.pcall('SPUBLISH', ARGV[1], '') -- a hint: it must not fail what is done
return 1
