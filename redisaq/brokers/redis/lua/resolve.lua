-- Settles messages that did not simply succeed, under a token (S1): each only if its XACK or ZREM really removes something.
-- KEYS: stream, lease, retry, bodies of retry, dead.
-- ARGV: group, token, how many dead letters to keep ('' for all), then for each message: source ('stream' or 'retry'), target ('done',
--       'retry' or 'dead'), entry id, how its body must begin (in retry), and for 'retry': when it is due, its new body; for 'dead': the
--       number of words, and these.
-- Answers: the current token or nil, and for each message 1 if it was moved, else 0. If the token is not the caller's, `moved_over` or nil
--       follows (S5).
-- The script has no '#!lua', so that all of it succeeds when memory is full (S2). It writes a message to its target before it removes it
-- from its source.

local token = redis.call('HGET', KEYS[2], 'token')
local moved = {}
if token ~= ARGV[2] then
    return {token, moved, redis.call('HGET', KEYS[2], 'moved_over')}
end

-- S2: these write nothing, but let the rest succeed when memory is full, or fail before it.
redis.call('XACK', KEYS[1], ARGV[1], '0-0')
redis.call('ZREM', KEYS[3], '')
redis.call('HDEL', KEYS[4], '')
redis.call('ZADD', KEYS[3], 'XX', 0, '')

local function is_pending(id)
    local rows = redis.pcall('XPENDING', KEYS[1], ARGV[1], id, id, 1)
    if rows.err then -- a missing group has nothing pending
        return not string.find(rows.err, 'NOGROUP', 1, true) and rows
    end
    return #rows > 0
end

local function is_in_retry(id, beginning, due, body)
    local found = redis.call('HGET', KEYS[4], id)
    if not found or string.sub(found, 1, #beginning) ~= beginning then
        return false
    end
    local score = redis.call('ZSCORE', KEYS[3], id)
    return found ~= body or not score or tonumber(score) ~= tonumber(due) -- else it is this very step, repeated
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
    local there
    if source == 'stream' then
        there = is_pending(id)
        if type(there) == 'table' then
            return there
        end
    else
        there = is_in_retry(id, beginning, due, body)
    end
    if there then
        -- A pending message may already be in retry, if a lost group was made again and delivered it once more (T6): the one in retry stays.
        if to == 'retry' and (source == 'retry' or not redis.call('ZSCORE', KEYS[3], id)) then
            redis.call('HSET', KEYS[4], id, body)
            redis.call('ZADD', KEYS[3], due, id)
        elseif to == 'dead' and ARGV[3] == '' then
            redis.call('XADD', KEYS[5], '*', unpack(ARGV, first, last))
        elseif to == 'dead' then
            redis.call('XADD', KEYS[5], 'MAXLEN', '=', ARGV[3], '*', unpack(ARGV, first, last))
        end
        if source == 'stream' then
            redis.call('XACK', KEYS[1], ARGV[1], id)
        elseif to ~= 'retry' then
            redis.call('ZREM', KEYS[3], id)
            redis.call('HDEL', KEYS[4], id)
        end
    end
    moved[#moved + 1] = there and 1 or 0
end
return {token, moved}
