-- A heartbeat (M5, M7, M9): extends a live member, and reports to it what others did.
-- KEYS: members, state, meta, deltas, room.
-- ARGV: incarnation, ttl in ms, the version that the caller knows ('' for none).
-- Answers: alive, now in us (text, since a Lua number would lose digits, M6), version ('' for none), the document, or its deltas since that
--       version, oldest first, or nil if it has not changed, expired members, the next expiry of another member in ms or nil, born in ms, frozen_until in ms, 1 if paused else 0, 1 if somebody watches the group
--       else 0, the topic's state (see topic.lua), and if the caller is no member, 1 if others wait to be
--       one else 0, and how many have joined in a burst and ms since then (see commit.lua).

-- S2: writes nothing, but a script that begins with a write that needs no memory succeeds when memory is full. A group whose heartbeats
-- were refused then would stop handling what fills the memory.
redis.call('ZREM', KEYS[1], '')

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local expiry = string.format('%.0f', now + ARGV[2])
local run_id = this_run()
local state = redis.call('HMGET', KEYS[2], 'version', 'run_id', 'born', 'frozen_until', 'paused', 'watched', 'burst')
local version = state[1] or ''
local document = false
if version ~= ARGV[3] and version ~= '' and ARGV[3] ~= '' then
    document = deltas_between(KEYS[4], ARGV[3], version)
end
if not document and (version ~= ARGV[3] or version == '') then -- without a version there is no document, or it is damaged
    document = redis.call('HGET', KEYS[2], 'doc')
end
local topic = topic_of(KEYS[3])
local far = now + 1e12 + 86400000 -- farther than any ttl reaches: redisaq did not write such a time, and it would block the group forever
local frozen_until = whole(state[4]) and state[4] or '0'
local born = whole(state[3]) and state[3] or '0'
if tonumber(frozen_until) > far or tonumber(born) > far then
    frozen_until, born = expiry, string.format('%.0f', now)
    redis.call('HSET', KEYS[2], 'frozen_until', frozen_until, 'born', born)
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], string.format('%.0f', far), '+inf')) do
    redis.call('ZADD', KEYS[1], 'XX', expiry, member)
end

if state[1] and state[2] ~= run_id then
    -- M7: another server, which may have missed the last heartbeats. GT: a member with a shorter ttl shortens no other member's time.
    if tonumber(frozen_until) < tonumber(expiry) then
        frozen_until = expiry
    end
    local members = redis.call('ZRANGE', KEYS[1], 0, -1)
    redis.call('ZADD', KEYS[1], 'XX', expiry, '') -- S2: writes nothing, but fails before anything is done; so does what is read here
    redis.call('ZSCORE', KEYS[1], ARGV[1])
    redis.call('HSET', KEYS[2], 'run_id', run_id, 'frozen_until', frozen_until)
    for _, member in ipairs(members) do
        redis.call('ZADD', KEYS[1], 'XX', 'GT', expiry, member)
    end
end

local watched = 0
if state[6] then
    local far_ahead = 60000 -- nobody watches so long without saying so again; a server's clock may have gone back
    if whole(state[6]) and tonumber(state[6]) > now and tonumber(state[6]) < now + far_ahead then
        watched = 1
    else
        redis.call('HDEL', KEYS[2], 'watched')
    end
end

local alive = 0
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if score and tonumber(score) > now then -- M5: an expired member stays expired
    alive = 1
    redis.call('ZADD', KEYS[1], 'XX', expiry, ARGV[1])
end

local bound = string.format('%.0f', now)
local expired = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', bound)) do
    if member ~= ARGV[1] then
        expired[#expired + 1] = member
    end
end
local next_expiry = false
local coming = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. bound, '+inf', 'WITHSCORES', 'LIMIT', 0, 2)
for i = 1, #coming, 2 do
    if not next_expiry and coming[i] ~= ARGV[1] then
        next_expiry = coming[i + 1]
    end
end
local crowded, joined, last = 0, 0, 0
if alive == 0 then
    crowded = redis.call('EXISTS', KEYS[5])
    local count, at = string.match(state[7] or '', '^(%d+) (%d+)$')
    joined, last = whole(count) or 0, math.max(0, now - (whole(at) or 0))
end
return {
    alive, time[1] .. string.format('%06d', time[2]), version, document, expired,
    next_expiry, born, frozen_until, state[5] and 1 or 0, watched, topic, crowded, joined, last,
}
