-- Notes what a member has given back, and answers what all have, if it is its turn to change the document for them (M13). What is noted stays
-- true: nobody works under that token any more.
-- KEYS: freed.
-- ARGV: incarnation, the partitions and their tokens, in ms: for how long one that has the turn waits for others, for how long it has it at
--       most, and for how long what was given back is answered.
-- Answers: -1 if another has the turn, or how many ms more to wait, or 0 and what all have given back.

local lasts = 5000 -- ms; then what nobody asks for any more is gone
-- S2: these write nothing, but let the rest succeed when memory is full, or fail before it.
redis.call('HDEL', KEYS[1], '-')
local fields = redis.call('HGETALL', KEYS[1])
redis.call('PEXPIRE', KEYS[1], lasts)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local began, holder = string.match(redis.call('HGET', KEYS[1], '') or '', '^(%d+) (.*)$')
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f ', now) .. ARGV[2])
redis.call('PEXPIRE', KEYS[1], lasts)
began = whole(began) or 0
if not holder or began > now or began + ARGV[4] <= now then
    began, holder = now, ARGV[1]
    redis.call('HSET', KEYS[1], '', string.format('%.0f ', now) .. holder)
end
if holder ~= ARGV[1] then
    return {-1}
end
if now - began < tonumber(ARGV[3]) then
    return {ARGV[3] - (now - began)}
end
redis.call('HDEL', KEYS[1], '')
local answer = {0, ARGV[1], ARGV[2]}
for i = 1, #fields, 2 do
    local at, said = string.match(fields[i + 1], '^(%d+) (.*)$')
    at = whole(at)
    if fields[i] ~= '' and fields[i] ~= ARGV[1] then
        if at and at <= now and at + ARGV[5] > now then
            answer[#answer + 1] = fields[i]
            answer[#answer + 1] = said
        else
            redis.call('HDEL', KEYS[1], fields[i])
        end
    end
end
return answer
