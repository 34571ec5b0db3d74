-- Publishes a greater partition count by compare-and-set on the generation (G1).
-- KEYS: meta. ARGV: channel, the generation that the caller saw, partitions. Answers generation, partitions, retention and send_timeout, as they stand.

local topic = redis.call('HMGET', KEYS[1], 'generation', 'partitions', 'retention', 'send_timeout')
if topic[1] == ARGV[2] and tonumber(topic[2]) < tonumber(ARGV[3]) then
    topic[1], topic[2] = string.format('%d', topic[1] + 1), ARGV[3]
    redis.call('HSET', KEYS[1], 'generation', topic[1], 'partitions', topic[2])
    redis.call('SPUBLISH', ARGV[1], '')
end
return topic
