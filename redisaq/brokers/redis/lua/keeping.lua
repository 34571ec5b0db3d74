-- Returns a topic's retention, and since when one group has had no member.
-- KEYS: meta, members, state.
-- ARGV: group.
-- Answers: now in us (text, since a Lua number would lose digits, M6), retention or nil, send_timeout in ms or nil, retention_idle in ms
--       or nil, the group's highest expiry and its last change in ms, each '0' if there is none.

redis.call('HDEL', KEYS[1], '') -- S2: writes nothing, but lets the rest succeed when memory is full
local time = redis.call('TIME')
local topic = redis.call('HMGET', KEYS[1], 'retention', 'send_timeout', 'retention_idle')
local state = redis.call('HMGET', KEYS[3], 'changed', 'born')
local highest = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
local changed = whole(state[1]) and state[1] or whole(state[2]) and state[2] or false
if topic[1] and not highest and not changed then
    -- There has never been a member, or the record of it is lost: count from the first time this was asked.
    local field = 'alone:' .. ARGV[1]
    redis.call('HSETNX', KEYS[1], field, time[1] .. string.format('%03d', math.floor(time[2] / 1000)))
    changed = redis.call('HGET', KEYS[1], field)
end
return {time[1] .. string.format('%06d', time[2]), topic[1], topic[2], topic[3], highest or '0', changed or '0'}
