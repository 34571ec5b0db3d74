-- Makes an empty stream where there is none (E5): making and destroying a group leaves one.
-- KEYS: stream.
-- Answers: 1 if it was made, else 0.

if redis.call('EXISTS', KEYS[1]) == 1 then
    return 0
end
redis.call('XACK', KEYS[1], 'owner', '0-0') -- S2: writes nothing, but lets the rest succeed when memory is full
local may = redis.pcall('XGROUP', 'DESTROY', KEYS[1], 'owner') -- there is nothing to destroy: only a refusal matters
if type(may) == 'table' and may.err and not string.find(may.err, 'key to exist', 1, true) then
    return may
end
redis.call('XGROUP', 'CREATE', KEYS[1], 'owner', '$', 'MKSTREAM')
redis.call('XGROUP', 'DESTROY', KEYS[1], 'owner')
return 1
