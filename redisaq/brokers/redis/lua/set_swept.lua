-- Notes up to which growth what is delayed here belongs here (G8).
-- KEYS: cuts.
-- ARGV: the run of the server before what did not belong here was dropped, the growth.
-- Answers: 1; or 0, and nothing is noted, if this is another run: it may have forgotten what was dropped.

if ARGV[1] ~= this_run() then
    return 0
end
redis.call('HDEL', KEYS[1], '') -- S2: writes nothing, but lets the rest succeed when memory is full
redis.call('HSET', KEYS[1], 'swept', ARGV[2])
return 1
