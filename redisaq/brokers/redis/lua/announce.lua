-- Notes how many partitions a topic is going to have, by compare-and-set on the generation (G1).
-- KEYS: meta.
-- ARGV: the generation that the caller saw, partitions, the latest format that the caller knows.
-- Answers: the topic's state afterwards. Values that cannot be read stay unchanged, and so does a topic of a later format.

local topic = topic_of(KEYS[1])
local known = not topic[5] or (whole(topic[5]) or math.huge) <= tonumber(ARGV[3])
local partitions = whole(topic[2]) or math.huge
local free = not topic[7] or (whole(topic[7]) or math.huge) <= partitions -- or a version that announces nothing has published more since
if known and topic[1] == ARGV[1] and free and partitions < tonumber(ARGV[2]) then
    redis.call('HDEL', KEYS[1], '') -- S2: writes nothing, but lets the rest succeed when memory is full
    redis.call('HSET', KEYS[1], 'pending', ARGV[2])
end
return topic_of(KEYS[1])
