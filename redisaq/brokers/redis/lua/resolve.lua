-- Settles messages that did not simply succeed, under a token (S1): each only if its XACK or ZREM really removed something.
-- KEYS: stream, lease, retry, bodies of retry, dead. ARGV: group, token, how many dead letters are kept ('' for all), then for each
-- message: source ('stream' or 'retry'), where to ('done', 'retry' or 'dead'), entry id, how its body must begin (in retry), and
-- for 'retry': when it is due, the body kept; for 'dead': how many words, and these.
-- Answers the token that stands or nil, and for each message 1 if it was moved, else 0. Without '#!lua', and with XACK and ZREM before
-- all else: so it passes whole when memory is full (S2).

local token = redis.call('HGET', KEYS[2], 'token')
local moved = {}
if token ~= ARGV[2] then
    return {token, moved}
end

local function take_from_retry(id, beginning, due, body)
    local found = redis.call('HGET', KEYS[4], id)
    if not found or string.sub(found, 1, #beginning) ~= beginning then
        return 0
    end
    if found == body and tonumber(redis.call('ZSCORE', KEYS[3], id)) == tonumber(due) then
        return 0 -- this very step, sent again
    end
    redis.call('HDEL', KEYS[4], id)
    return redis.call('ZREM', KEYS[3], id)
end

local at = 4
while at <= #ARGV do
    local source, to, id, beginning = unpack(ARGV, at, at + 3)
    local due, body, first, last
    at = at + 4
    if to == 'retry' then
        due, body = ARGV[at], ARGV[at + 1]
        at = at + 2
    elseif to == 'dead' then
        first = at + 1
        last = at + ARGV[at]
        at = last + 1
    end
    local removed
    if source == 'stream' then
        removed = redis.call('XACK', KEYS[1], ARGV[1], id)
    else
        removed = take_from_retry(id, beginning, due, body)
    end
    if removed == 1 then
        -- NX: it is there already if a lost group was made again, and delivered it once more (T6).
        if to == 'retry' and redis.call('ZADD', KEYS[3], 'NX', due, id) == 1 then
            redis.call('HSET', KEYS[4], id, body)
        elseif to == 'dead' and ARGV[3] == '' then
            redis.call('XADD', KEYS[5], '*', unpack(ARGV, first, last))
        elseif to == 'dead' then
            redis.call('XADD', KEYS[5], 'MAXLEN', '=', ARGV[3], '*', unpack(ARGV, first, last))
        end
    end
    moved[#moved + 1] = removed
end
return {token, moved}
