-- Makes a group where it is missing, and the stream where that is missing (G6).
-- KEYS: stream, and if the topic has grown what stand.lua says.
-- ARGV: group, where it begins ('0' or '$'), '1' if the stream is younger than the group, so that what was trimmed from it before counts
--       as the group's, the partitions of each generation with commas.
-- An existing group stays as it is.

redis.call('XACK', KEYS[1], ARGV[1], '0-0') -- S2: writes nothing, but lets the rest succeed when memory is full
local refused = stand(2, ARGV[4])
if refused then
    return refused
end
local read = 0
if ARGV[3] ~= '1' then
    local facts = facts_of(redis.call('XINFO', 'STREAM', KEYS[1]))
    read = facts['entries-added'] - (ARGV[2] == '$' and 0 or facts.length)
end
-- ENTRIESREAD distinguishes what is trimmed from now on from what was gone before.
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], ARGV[2], 'ENTRIESREAD', read)
if made.err and not string.find(made.err, 'BUSYGROUP') then
    return made
end
