-- Publishes a greater partition count, or how the streams are cut, by compare-and-set on the generation (G1).
-- KEYS: meta.
-- ARGV: channel, the generation that the caller saw, partitions, the partitions of each generation with commas, format.
-- Answers: the topic's state afterwards. Values that cannot be read stay unchanged, and so does a topic of a later format.

local topic = topic_of(KEYS[1])
local known = not topic[5] or (whole(topic[5]) or math.huge) <= tonumber(ARGV[5])
local generation, partitions = whole(topic[1]), whole(topic[2])
if known and generation and partitions and topic[1] == ARGV[2] and partitions <= tonumber(ARGV[3]) then
    local time = redis.call('TIME')
    redis.call('HDEL', KEYS[1], '') -- S2: writes nothing, but lets the rest succeed when memory is full
    local grown = time[1] .. string.format('%03d', math.floor(time[2] / 1000))
    local words = {'generation', string.format('%.0f', generation + 1), 'partitions', ARGV[3], 'history', ARGV[4], 'format', ARGV[5]}
    redis.call('HSET', KEYS[1], 'grown', grown, unpack(words))
    redis.call('HDEL', KEYS[1], 'pending')
    redis.pcall('SPUBLISH', ARGV[1], '') -- a hint: its failure must not fail the step
end
return topic_of(KEYS[1])
