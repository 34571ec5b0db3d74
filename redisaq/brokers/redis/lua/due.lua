-- Moves due delayed messages into the stream, and returns the due retries, which stay where they are (S3).
-- KEYS: stream, lease, retry, bodies of retry, delayed, bodies of delayed, cuts.
-- ARGV: token, the most of each kind, the number in the stream's name.
-- Answers: nil if another token is current, else: now in us (text, since a Lua number would lose digits, M6), how many were moved, the
--       retries (id, body, id, body ...), when the next retry and the next delayed message are due or nil, 1 if the stream took no more,
--       the retries and the delayed messages that were dropped because their bodies are gone, how many bodies had no due time (they are
--       due now), 1 if delayed messages may belong elsewhere since the topic has grown, so that none was moved (G8).

if redis.call('HGET', KEYS[2], 'token') ~= ARGV[1] then
    return false
end
redis.call('XLEN', KEYS[1]) -- refused if the stream was cut, before anything is done
local unswept = ARGV[3] ~= '0' and (whole(redis.call('HGET', KEYS[7], 'swept')) or 0) < tonumber(ARGV[3])
-- S2: these remove nothing, but let the rest succeed when memory is full, or fail before it. What is moved is in memory already, and handling
-- it frees memory.
redis.call('ZREM', KEYS[5], '')
redis.call('HDEL', KEYS[6], '')
redis.call('ZREM', KEYS[3], '')
redis.call('ZRANGE', KEYS[5], 0, 0)
local time = redis.call('TIME')
local now = time[1] .. string.format('%06d', time[2])
local count = tonumber(ARGV[2])

local function words_of(body) -- each word follows its length and a colon; nil if the body has another form
    local words, at = {}, 1
    while at <= #body do
        local _, colon, length = string.find(body, '^(%d+):', at)
        local last = colon and #length < 10 and colon + tonumber(length)
        if not last or last > #body or #words == 7000 then -- a command of more words cannot be unpacked
            return nil
        end
        words[#words + 1] = string.sub(body, colon + 1, last)
        at = last + 1
    end
    return #words > 0 and #words % 2 == 0 and words or nil
end

-- A server that evicts removes a whole key: the due times without the bodies, or the bodies without the due times. What has only a body is due now.
local found_again = 0
local function mend(due, bodies)
    if redis.call('HLEN', bodies) > redis.call('ZCARD', due) then
        for _, id in ipairs(redis.call('HKEYS', bodies)) do
            if not redis.call('ZSCORE', due, id) then
                redis.call('ZADD', due, now, id)
                found_again = found_again + 1
            end
        end
    end
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', due, '1e17', '+inf', 'LIMIT', 0, count)) do
        redis.call('ZADD', due, 'XX', now, id) -- due after the year 5138: no caller has asked for that
    end
end
mend(KEYS[3], KEYS[4]) -- these first: nothing has looked at the type of the bodies yet (S2)
mend(KEYS[5], KEYS[6])

local moved, blocked, lost_delayed = 0, 0, {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', now, 'LIMIT', 0, count)) do
    local body = redis.call('HGET', KEYS[6], id)
    if unswept then
        break
    elseif body then -- XADD before ZREM, since the stream may be sealed, or gone (S2)
        -- What is not a message goes into the stream unchanged, so that each group finds that it cannot be read.
        local added = redis.pcall('XADD', KEYS[1], 'NOMKSTREAM', '*', unpack(words_of(body) or {'raw', body}))
        if type(added) == 'table' and not string.find(added.err, ' ID', 1, true) then -- not sealed, so this error is permanent
            return added
        end
        if type(added) ~= 'string' then
            blocked = 1
            break
        end
        moved = moved + 1
    else
        lost_delayed[#lost_delayed + 1] = id
    end
    redis.call('ZREM', KEYS[5], id)
    redis.call('HDEL', KEYS[6], id)
end

local retries, lost_retries = {}, {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, count)) do
    local body = redis.call('HGET', KEYS[4], id)
    if body then
        retries[#retries + 1] = id
        retries[#retries + 1] = body
    else
        redis.call('ZREM', KEYS[3], id)
        lost_retries[#lost_retries + 1] = id
    end
end
local place = #retries / 2
local next_retry = redis.call('ZRANGE', KEYS[3], place, place, 'WITHSCORES')[2]
local next_delayed = redis.call('ZRANGE', KEYS[5], 0, 0, 'WITHSCORES')[2]
return {now, moved, retries, next_retry or false, next_delayed or false, blocked, lost_retries, lost_delayed, found_again, unswept and 1 or 0}
