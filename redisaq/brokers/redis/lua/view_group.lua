-- Returns a group's coordination.
-- KEYS: members, state, meta.
-- ARGV: group.
-- Answers: now in us (text, since a Lua number would lose digits, M6), 1 if paused else 0, the document or nil, members, each with its
--       expiry in ms and what it says about itself or nil, when the document last changed in ms or '0' if that is not known, the topic's
--       retention and retention_idle in ms or nil, since when it has been paused in ms or nil.

local time = redis.call('TIME')
local state = redis.call('HMGET', KEYS[2], 'doc', 'paused', 'changed', 'born', 'paused_at')
local topic = redis.call('HMGET', KEYS[3], 'retention', 'retention_idle', 'alone:' .. ARGV[1])
local found, members = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES'), {}
for i = 1, #found, 2 do
    members[#members + 1] = {found[i], found[i + 1], redis.call('HGET', KEYS[2], 'member:' .. found[i])}
end
return {
    time[1] .. string.format('%06d', time[2]), state[2] and 1 or 0, state[1], members,
    state[3] or state[4] or topic[3] or '0', topic[1], topic[2], state[2] and state[5],
}
