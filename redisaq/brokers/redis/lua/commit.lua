-- Replaces the group's document by compare-and-set on its version (M3), and changes the members with it (M2). `freeze` replaces a document
-- that cannot be read any more, under its version (M8).
-- KEYS: members, state, history, deltas, room.
-- ARGV: channel, incarnation, ttl in ms, known version, new version, document, joins, leaves, freeze (each '1' or '0'), the number of
--       former incarnations of the one that joins, what it says about itself ('' for nothing), the number of changes for the history, the
--       delta to this document from the one of the known version ('' for none), the number of those that are let in from the waiting room,
--       for each of these its incarnation, its ttl in ms and what it says about itself, the changes, the former incarnations, then the
--       expired members. Both are removed from the members.
-- Answers: 1, or 0 if refused; then nothing is changed.

local changes = 15 + 3 * ARGV[14]
local former = changes + ARGV[12]
local expired = former + ARGV[10]
local state = redis.call('HMGET', KEYS[2], 'version', 'run_id', 'frozen_until')
if (state[1] or '') ~= ARGV[4] then
    return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local expiry = string.format('%.0f', now + ARGV[3])
local run_id = this_run()

-- M7: the caller knows another server's state. Its next heartbeat extends all members and freezes the group.
if state[1] and state[2] ~= run_id then
    return 0
end
if #ARGV >= expired and state[1] and (whole(state[3]) or 0) > now then
    return 0
end
for i = expired, #ARGV do -- M5: check again; a member that is not in the set counts as expired
    local score = redis.call('ZSCORE', KEYS[1], ARGV[i])
    if score and tonumber(score) > now then
        return 0
    end
end
if ARGV[7] ~= '1' then
    local score = redis.call('ZSCORE', KEYS[1], ARGV[2])
    if not score or tonumber(score) <= now then
        return 0
    end
end
for i = 15, changes - 1, 3 do -- M11: one that has stopped waiting is not let in
    if redis.call('HEXISTS', KEYS[5], ARGV[i]) == 0 then
        return 0
    end
end

redis.call('ZREM', KEYS[1], '') -- S2: writes nothing, but lets the rest succeed when memory is full
redis.call('ZADD', KEYS[1], 'XX', expiry, '') -- writes nothing, either, as the next one: if the server refuses one, nothing has happened
redis.call('HDEL', KEYS[2], '')
local burst = ''
if ARGV[7] == '1' then -- what is read below may be refused, too
    burst = redis.call('HGET', KEYS[2], 'burst') or ''
    redis.call('HLEN', KEYS[2])
    redis.call('ZCARD', KEYS[1])
    redis.call('ZSCORE', KEYS[1], '')
end
local words = {'version', ARGV[5], 'doc', ARGV[6], 'changed', string.format('%.0f', now)}
if ARGV[7] == '1' and ARGV[11] ~= '' then
    words[#words + 1] = 'member:' .. ARGV[2]
    words[#words + 1] = string.format('%.0f', now) .. ' ' .. ARGV[11]
end
local more = {}
if not state[1] then
    more = {'run_id', run_id, 'born', string.format('%.0f', now), 'frozen_until', ARGV[9] == '1' and expiry or '0'}
elseif ARGV[9] == '1' and (whole(state[3]) or 0) < tonumber(expiry) then
    more = {'frozen_until', expiry}
end
for _, word in ipairs(more) do
    words[#words + 1] = word
end
redis.call('HSET', KEYS[2], unpack(words))
for i = former, #ARGV do
    redis.call('ZREM', KEYS[1], ARGV[i])
    redis.call('HDEL', KEYS[2], 'member:' .. ARGV[i])
end
if ARGV[7] == '1' then
    redis.call('ZADD', KEYS[1], expiry, ARGV[2])
end
for i = 15, changes - 1, 3 do
    redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[i + 1]), ARGV[i])
    redis.call('HSET', KEYS[2], 'member:' .. ARGV[i], string.format('%.0f', now) .. ' ' .. ARGV[i + 2])
    redis.call('HDEL', KEYS[5], ARGV[i])
end
if ARGV[7] == '1' then
    if redis.call('HDEL', KEYS[5], ARGV[2]) == 1 then
        redis.call('HDEL', KEYS[5], '') -- its turn is over
    end
    local joined, last = string.match(burst, '^(%d+) (%d+)$')
    joined = (whole(last) or 0) + 1000 > now and whole(joined) or 0
    redis.call('HSET', KEYS[2], 'burst', string.format('%.0f %.0f', joined + 1 + ARGV[14], now))
end
if ARGV[8] == '1' then
    redis.call('ZREM', KEYS[1], ARGV[2])
    redis.call('HDEL', KEYS[2], 'member:' .. ARGV[2])
end
-- A member of an older version that drops another leaves what that one said about itself. Such leftovers go once they are as many as the members.
if ARGV[7] == '1' and redis.call('HLEN', KEYS[2]) > 2 * redis.call('ZCARD', KEYS[1]) + 16 then
    for _, field in ipairs(redis.pcall('HKEYS', KEYS[2])) do
        local member = string.match(field, '^member:(.*)$')
        if member and not redis.call('ZSCORE', KEYS[1], member) then
            redis.call('HDEL', KEYS[2], field)
        end
    end
end
for i = changes, former - 1 do
    note(KEYS[3], ARGV[i])
end
if ARGV[13] ~= '' then
    keep_delta(KEYS[4], ARGV[4], ARGV[5], ARGV[13])
end
redis.pcall('SPUBLISH', ARGV[1], '') -- a hint: its failure must not fail the step
return 1
