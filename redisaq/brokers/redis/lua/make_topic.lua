-- Makes a topic where it is not (E5). KEYS: meta. ARGV: channel, partitions, format. Answers generation, partitions, retention and send_timeout, as they stand.

redis.call('HSETNX', KEYS[1], 'generation', 0)
if redis.call('HSETNX', KEYS[1], 'partitions', ARGV[2]) == 1 then
    redis.call('HSET', KEYS[1], 'format', ARGV[3])
    redis.call('SPUBLISH', ARGV[1], '')
end
return redis.call('HMGET', KEYS[1], 'generation', 'partitions', 'retention', 'send_timeout')
