-- Drops delayed messages that another partition has adopted (G8).
-- KEYS: delayed, bodies of delayed.
-- ARGV: the run of the server that adopted them ('' for any), then message ids.
-- Answers: how many were there; or nil, and nothing is dropped, if this is another run: it may have forgotten that it adopted them.

if ARGV[1] ~= '' and ARGV[1] ~= this_run() then
    return false
end
redis.call('HDEL', KEYS[2], '') -- S2: writes nothing, but fails before anything is done
local dropped = 0
for i = 2, #ARGV do
    local there = redis.call('ZREM', KEYS[1], ARGV[i])
    dropped = dropped + math.max(there, redis.call('HDEL', KEYS[2], ARGV[i]))
end
return dropped
