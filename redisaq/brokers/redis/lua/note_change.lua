-- Adds a change to a group's history. If it ends one that was noted when it began, it replaces that note.
-- KEYS: history.
-- ARGV: the change, or '' for none; the id of the note that it replaces, or '0-0' for none; how many changes are kept.
-- Answers: the id of the change, or ''.

redis.call('XDEL', KEYS[1], '0-0') -- S2: writes nothing, but lets the rest succeed when memory is full
local id = ARGV[1] ~= '' and redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 'c', ARGV[1]) or ''
redis.call('XDEL', KEYS[1], ARGV[2])
if id == '' and redis.call('XLEN', KEYS[1]) == 0 then
    redis.call('DEL', KEYS[1])
end
return id
