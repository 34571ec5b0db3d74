-- Notes that a producer waits for room in a partition.
-- KEYS: meta.
-- ARGV: partition, how many waiting entries the producer allows there.
-- Nothing is done to a topic that does not exist.

redis.call('HDEL', KEYS[1], '') -- S2: writes nothing, but lets the rest succeed when memory is full
if redis.call('HGET', KEYS[1], 'partitions') then
    local time = redis.call('TIME')
    local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
    redis.call('HSET', KEYS[1], 'held_up', now .. ' ' .. ARGV[1] .. ' ' .. ARGV[2])
end
