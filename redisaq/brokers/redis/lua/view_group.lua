-- How a group's coordination stands. KEYS: members, state.
-- Answers: now in us (text: a Lua number would lose digits, M6), 1 if paused else 0, the document or nil, members with their expiries in ms.

local time = redis.call('TIME')
local state = redis.call('HMGET', KEYS[2], 'doc', 'paused')
local members = {}
for _, word in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')) do
    members[#members + 1] = word
end
return {time[1] .. string.format('%06d', time[2]), state[2] and 1 or 0, state[1], members}
