-- Drops a group's coordination.
-- KEYS: members, state, history, meta, deltas, room, freed.
-- ARGV: channel, '1' to drop it even while members live, group, '1' to keep the history.
-- Answers: the live members; without force nothing is done if there are any.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local live = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now), '+inf')
if #live == 0 or ARGV[2] == '1' then
    redis.call('HDEL', KEYS[4], 'alone:' .. ARGV[3]) -- since when it has had no member; S2: first, since it loses nothing by itself
    redis.call('DEL', KEYS[1], KEYS[2], KEYS[5], KEYS[6], KEYS[7])
    if ARGV[4] ~= '1' then
        redis.call('DEL', KEYS[3])
    end
    redis.pcall('SPUBLISH', ARGV[1], '') -- a hint: its failure must not fail the step
end
return live
