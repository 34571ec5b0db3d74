-- Keeps what a producer asks of its topic (E3): of times the largest of all producers'. KEYS: meta.
-- ARGV: send_timeout in ms, 'acked' or '', retention_idle in ms. Answers 1, or 0 if there is no such topic.

if redis.call('HEXISTS', KEYS[1], 'partitions') == 0 then
    return 0
end
local function raise(field, value)
    local standing = redis.call('HGET', KEYS[1], field)
    if not standing or tonumber(standing) < tonumber(value) then
        redis.call('HSET', KEYS[1], field, value)
    end
end
raise('send_timeout', ARGV[1])
if ARGV[2] ~= '' then
    raise('retention_idle', ARGV[3])
    redis.call('HSET', KEYS[1], 'retention', ARGV[2])
end
return 1
