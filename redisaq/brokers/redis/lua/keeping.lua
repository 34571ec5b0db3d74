-- What holds for a topic, and for how long one group has had no member. KEYS: meta, members, state. ARGV: group.
-- Answers: now in us (text: a Lua number would lose digits, M6), retention or nil, send_timeout in ms or nil, retention_idle in ms or nil,
--         what is known of the group in ms: the highest expiry and the last change, '0' each if there is none.

redis.call('HDEL', KEYS[1], '') -- S2: writes nothing, but lets the rest pass whole when memory is full
local time = redis.call('TIME')
local topic = redis.call('HMGET', KEYS[1], 'retention', 'send_timeout', 'retention_idle')
local state = redis.call('HMGET', KEYS[3], 'changed', 'born')
local highest = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
local changed = whole(state[1]) and state[1] or whole(state[2]) and state[2] or false
if topic[1] and not highest and not changed then
    -- Nobody has ever been a member, or what told so is lost: it counts from the first time that anybody asked.
    local field = 'alone:' .. ARGV[1]
    redis.call('HSETNX', KEYS[1], field, time[1] .. string.format('%03d', math.floor(time[2] / 1000)))
    changed = redis.call('HGET', KEYS[1], field)
end
return {time[1] .. string.format('%06d', time[2]), topic[1], topic[2], topic[3], highest or '0', changed or '0'}
