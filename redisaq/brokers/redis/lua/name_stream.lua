-- Lets a partition's stream have its name; see stand.lua.
-- KEYS: stream; and if the topic has grown: cuts, then the stream's older names, the latest first.
-- ARGV: the partitions of each generation, with commas.
-- Answers: what the seal under the latest older name says, '' if there is none.

local refused = stand(2, ARGV[1])
if refused then
    return refused
end
return KEYS[3] and redis.call('GET', KEYS[3]) or ''
