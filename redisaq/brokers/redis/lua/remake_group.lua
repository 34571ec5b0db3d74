-- Makes a lost group again (T6): after the last handled entry if that is still there, else from the beginning.
-- KEYS: stream, and if the topic has grown what stand.lua says.
-- ARGV: group, last id ('' for none), where to begin if the entry with that id is there, the partitions of each generation with commas.
-- An existing group stays as it is.

redis.call('XACK', KEYS[1], ARGV[1], '0-0') -- S2: writes nothing, but lets the rest succeed when memory is full
local refused = stand(2, ARGV[4])
if refused then
    return refused
end
local start = '0'
if ARGV[2] ~= '' and redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1] then
    start = ARGV[3]
end
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], start)
if made.err and not string.find(made.err, 'BUSYGROUP') then
    return made
end
