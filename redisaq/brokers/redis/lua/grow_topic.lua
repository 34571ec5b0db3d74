-- Publishes a greater partition count by compare-and-set on the generation (G1).
-- KEYS: meta.
-- ARGV: channel, the generation that the caller saw, partitions.
-- Answers: generation, partitions, retention, send_timeout and format as they are afterwards. Values that cannot be read stay unchanged.

local topic = redis.call('HMGET', KEYS[1], 'generation', 'partitions', 'retention', 'send_timeout', 'format')
local generation, partitions = whole(topic[1]), whole(topic[2])
if generation and partitions and topic[1] == ARGV[2] and partitions < tonumber(ARGV[3]) then
    redis.call('HDEL', KEYS[1], '') -- S2: writes nothing, but lets the rest succeed when memory is full
    topic[1], topic[2] = string.format('%.0f', generation + 1), ARGV[3]
    redis.call('HSET', KEYS[1], 'generation', topic[1], 'partitions', topic[2])
    redis.pcall('SPUBLISH', ARGV[1], '') -- a hint: its failure must not fail the step
end
return topic
