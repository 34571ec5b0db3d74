-- Pauses a group, or lets it go on. KEYS: state. ARGV: channel, '1' to pause, '0' to go on.

if ARGV[2] == '1' then
    redis.call('HSET', KEYS[1], 'paused', '1')
else
    redis.call('HDEL', KEYS[1], 'paused')
end
redis.call('SPUBLISH', ARGV[1], '')
return 1
