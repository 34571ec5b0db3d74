-- Makes an empty stream where there is none (E5): a group made and destroyed leaves one. KEYS: stream. Answers 1 if it was made, else 0.

if redis.call('EXISTS', KEYS[1]) == 1 then
    return 0
end
redis.call('XGROUP', 'CREATE', KEYS[1], 'owner', '$', 'MKSTREAM')
redis.call('XGROUP', 'DESTROY', KEYS[1], 'owner')
return 1
