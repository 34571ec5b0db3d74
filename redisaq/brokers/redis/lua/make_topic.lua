-- Makes a topic where it is not (E5), and keeps what a producer asks of it (E3). KEYS: meta.
-- ARGV: channel, partitions, format, then '' or: send_timeout in ms, 'acked' or '', retention_idle in ms; of times the largest stands.
-- Answers generation, partitions, retention and send_timeout, as they stand.

local function raise(field, value)
    local standing = redis.call('HGET', KEYS[1], field)
    if not standing or tonumber(standing) < tonumber(value) then
        redis.call('HSET', KEYS[1], field, value)
    end
end
redis.call('HSETNX', KEYS[1], 'generation', 0)
local made = redis.call('HSETNX', KEYS[1], 'partitions', ARGV[2]) == 1
if made then
    redis.call('HSET', KEYS[1], 'format', ARGV[3])
end
if ARGV[4] ~= '' then
    raise('send_timeout', ARGV[4])
    if ARGV[5] ~= '' then
        raise('retention_idle', ARGV[6])
        redis.call('HSET', KEYS[1], 'retention', ARGV[5])
    end
end
if made then
    redis.call('SPUBLISH', ARGV[1], '')
end
return redis.call('HMGET', KEYS[1], 'generation', 'partitions', 'retention', 'send_timeout')
