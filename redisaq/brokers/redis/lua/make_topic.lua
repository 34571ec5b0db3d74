-- Makes a topic where it is missing (E5), and keeps what a producer asks of it (E3).
-- KEYS: meta.
-- ARGV: channel, partitions, the latest format that the caller knows, the format, generation, history and time of growth with which to make
--       it ('' for none), then '' or: send_timeout in ms, 'acked' or '', retention_idle in ms. Of times, the largest is kept.
-- Answers: the topic's state (see topic.lua) and retention_idle as they are afterwards. Values that cannot be read stay unchanged, and so
--       does a topic of a later format.

local topic, idle = topic_of(KEYS[1]), redis.call('HGET', KEYS[1], 'retention_idle')
local words = {}
local made = not topic[1] and not topic[2] and not topic[3] and not topic[4] and not idle
if made then
    words = {'generation', ARGV[5], 'partitions', ARGV[2], 'format', ARGV[4]}
    if ARGV[6] ~= '' then
        words = {'history', ARGV[6], 'grown', ARGV[7], unpack(words)}
    end
end
local function raise(field, value, before)
    if not before or (whole(before) and whole(before) < tonumber(value)) then
        words[#words + 1] = field
        words[#words + 1] = value
    end
end
local known = not topic[5] or (whole(topic[5]) or math.huge) <= tonumber(ARGV[3])
if (made or (known and whole(topic[1]) and whole(topic[2]))) and ARGV[8] ~= '' then
    raise('send_timeout', ARGV[8], topic[4])
    if ARGV[9] ~= '' then
        raise('retention_idle', ARGV[10], idle)
        if topic[3] ~= ARGV[9] then
            words[#words + 1] = 'retention'
            words[#words + 1] = ARGV[9]
        end
    end
end
if next(words) then
    redis.call('HDEL', KEYS[1], '') -- S2: writes nothing, but lets the rest succeed when memory is full
    redis.call('HSET', KEYS[1], unpack(words)) -- all at once: half a topic would look like a damaged one
end
if made then
    redis.pcall('SPUBLISH', ARGV[1], '') -- a hint: its failure must not fail the step
end
return {topic_of(KEYS[1]), redis.call('HGET', KEYS[1], 'retention_idle')}
