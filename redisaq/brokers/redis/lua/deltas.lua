-- Not a script, but functions that some scripts begin with: the latest changes of a group's document (M10). Each is kept under the version
-- that it changed, after the version that it led to; under '' are these names, oldest first.

-- Return the deltas from one version to another, oldest first; false if they are not all there. A member of an older version that changes
-- the document adds none, so what is there ends before the document's version.
local function deltas_between(key, from, to)
    local found = {}
    while from ~= to do
        local kept = #found < 16 and redis.pcall('HGET', key, from)
        local begin = type(kept) == 'string' and string.find(kept, ' ')
        if not begin then
            return false
        end
        from = string.sub(kept, 1, begin - 1)
        found[#found + 1] = string.sub(kept, begin + 1)
    end
    return found
end

-- Keep a delta. Its failure must not fail the step: members then read the whole document.
local function keep_delta(key, from, to, delta)
    local kept, names = redis.pcall('HGET', key, ''), {}
    for name in string.gmatch(type(kept) == 'string' and kept or '', '%S+') do
        names[#names + 1] = name
    end
    if #names >= 16 then
        redis.pcall('HDEL', key, table.remove(names, 1))
    end
    names[#names + 1] = from
    redis.pcall('HSET', key, from, to .. ' ' .. delta, '', table.concat(names, ' '))
    redis.pcall('PEXPIRE', key, 60000)
end

