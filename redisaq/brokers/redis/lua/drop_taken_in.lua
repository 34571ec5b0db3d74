-- Drops dead letters that another partition has taken in (G8).
-- KEYS: dead.
-- ARGV: the run of the server that took them in ('' for any), then ids of dead letters.
-- Answers: how many were there; or nil, and nothing is dropped, if this is another run: it may have forgotten that it took them in.

if ARGV[1] ~= '' and ARGV[1] ~= this_run() then
    return false
end
local dropped = 0
for i = 2, #ARGV do
    dropped = dropped + redis.call('XDEL', KEYS[1], ARGV[i])
end
return dropped
