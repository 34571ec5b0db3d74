-- Not a script, but a function that some scripts begin with. Lets a partition's stream, KEYS[1], have its name: makes an empty stream where
-- there is none (E5), and cuts one that has an older name (G2). If the topic has grown, KEYS has more from `first` on: the hash of cuts, then
-- the stream's older names, the latest first. `history` is the partitions of each generation, with commas.
-- Returns nil, or an error.

local function stand(first, history)
    local counts = {}
    for count in string.gmatch(history, '%d+') do
        counts[#counts + 1] = count
    end
    local newest = math.max(0, #KEYS - first)
    local function older(number) -- the name with this number
        return KEYS[first + newest - number]
    end
    local from
    for number = newest - 1, 0, -1 do
        if redis.call('TYPE', older(number)).ok == 'stream' then
            from = number
            break
        end
    end
    if redis.call('EXISTS', KEYS[1]) == 1 then
        if not from then
            return nil
        end
        -- A cut was lost, and something made the stream again. Nothing is renamed onto messages.
        if redis.call('TYPE', KEYS[1]).ok ~= 'stream' or facts_of(redis.call('XINFO', 'STREAM', KEYS[1]))['entries-added'] > 0 then
            return redis.error_reply('DAMAGED the keys ' .. older(from) .. ' and ' .. KEYS[1] .. ' are both streams of one partition')
        end
        redis.call('DEL', KEYS[1])
    end
    local function may_seal() -- S2: writes nothing, since there is no such key by now, but fails before anything is done
        redis.call('SET', KEYS[1], '', 'XX')
    end
    local function seal(number)
        redis.call('SET', older(number), table.concat(counts, ',', 1, number + 2))
    end
    if from then
        redis.call('HDEL', KEYS[first], '') -- S2: writes nothing, but lets the rest succeed when memory is full
        may_seal()
        local last = facts_of(redis.call('XINFO', 'STREAM', older(from)))['last-generated-id']
        for number = from + 1, newest do
            redis.call('HSET', KEYS[first], number, last)
        end
        redis.call('RENAME', older(from), KEYS[1])
        for number = from, newest - 1 do
            seal(number)
        end
        return nil
    end
    -- S2: there is nothing to destroy, but the rest succeeds when memory is full; only a refusal matters.
    local may = redis.pcall('XGROUP', 'DESTROY', KEYS[1], 'owner')
    if type(may) == 'table' and may.err and not string.find(may.err, 'key to exist') then
        return may
    end
    if newest > 0 then
        may_seal()
    end
    for number = 1, newest do
        redis.call('HSETNX', KEYS[first], number, '0-0')
    end
    redis.call('XGROUP', 'CREATE', KEYS[1], 'owner', '$', 'MKSTREAM')
    redis.call('XGROUP', 'DESTROY', KEYS[1], 'owner')
    for number = 0, newest - 1 do
        seal(number)
    end
    return nil
end

