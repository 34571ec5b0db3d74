-- Moves due delayed messages into the stream, and answers which retries are due; those stay where they are (S3).
-- KEYS: stream, lease, retry, bodies of retry, delayed, bodies of delayed. ARGV: token, how many of each, at most.
-- Answers nil if another token stands, else: now in us (text: a Lua number would lose digits, M6), how many were moved, the retries (id,
-- body, id, body ...), when the first other retry and the first other delayed message are due or nil, 1 if the stream took no more.

if redis.call('HGET', KEYS[2], 'token') ~= ARGV[1] then
    return false
end
-- S2: removes nothing, but lets the rest pass whole when memory is full: what is moved is in memory already, and must be worked off.
redis.call('ZREM', KEYS[5], '')
local time = redis.call('TIME')
local now = time[1] .. string.format('%06d', time[2])
local count = tonumber(ARGV[2])

local function words_of(body) -- each word stands behind its length and a colon
    local words, at = {}, 1
    while at <= #body do
        local colon = string.find(body, ':', at, true)
        local last = colon + string.sub(body, at, colon - 1)
        words[#words + 1] = string.sub(body, colon + 1, last)
        at = last + 1
    end
    return words
end

local moved, blocked = 0, 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', now, 'LIMIT', 0, count)) do
    local body = redis.call('HGET', KEYS[6], id)
    if body then -- XADD before ZREM: the stream may be sealed, or gone (S2)
        local added = redis.pcall('XADD', KEYS[1], 'NOMKSTREAM', '*', unpack(words_of(body)))
        if type(added) ~= 'string' then
            blocked = 1
            break
        end
        moved = moved + 1
    end
    redis.call('ZREM', KEYS[5], id)
    redis.call('HDEL', KEYS[6], id)
end

local retries = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, count)) do
    local body = redis.call('HGET', KEYS[4], id)
    if body then
        retries[#retries + 1] = id
        retries[#retries + 1] = body
    else
        redis.call('ZREM', KEYS[3], id) -- somebody has tampered with it: there is nothing to be tried
    end
end
local place = #retries / 2
local next_retry = redis.call('ZRANGE', KEYS[3], place, place, 'WITHSCORES')[2]
local next_delayed = redis.call('ZRANGE', KEYS[5], 0, 0, 'WITHSCORES')[2]
return {now, moved, retries, next_retry or false, next_delayed or false, blocked}
