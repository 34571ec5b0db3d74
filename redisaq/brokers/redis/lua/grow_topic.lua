-- Publishes a greater partition count by compare-and-set on the generation (G1).
-- KEYS: meta. ARGV: channel, the generation that the caller saw, partitions. Answers generation and partitions, as they stand.

local topic = redis.call('HMGET', KEYS[1], 'generation', 'partitions')
if topic[1] == ARGV[2] and tonumber(topic[2]) < tonumber(ARGV[3]) then
    topic = {string.format('%d', topic[1] + 1), ARGV[3]}
    redis.call('HSET', KEYS[1], 'generation', topic[1], 'partitions', topic[2])
    redis.call('SPUBLISH', ARGV[1], '')
end
return topic
