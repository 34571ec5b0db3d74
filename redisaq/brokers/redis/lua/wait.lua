-- Lets one that wants to join wait, and answers whether it is its turn to let those in that wait (M11); or stops its waiting.
-- KEYS: members, room, state.
-- ARGV: incarnation, what it says about itself ('' to stop waiting), for how long in ms it has the turn, for how long in ms one that no
--       longer asks counts as waiting.
-- Answers: 1 if it is a member, how many have joined in a burst and ms since then (see commit.lua), then if it has the turn, for each that waits in the order in which they
--       came: ms since it came, what it says about itself.

-- S2: these write nothing, but let the rest succeed when memory is full, or fail before it.
redis.call('HDEL', KEYS[2], '-')
local fields = redis.call('HGETALL', KEYS[2])
redis.call('PEXPIRE', KEYS[2], 5000)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local turn, holder = string.match(redis.call('HGET', KEYS[2], '') or '', '^(%d+) (.*)$') -- under '' is whose turn it is, and until when
turn = whole(turn) or 0
local joined, last = string.match(redis.call('HGET', KEYS[3], 'burst') or '', '^(%d+) (%d+)$')
joined, last = whole(joined) or 0, math.max(0, now - (whole(last) or 0))
if redis.call('ZSCORE', KEYS[1], ARGV[1]) or ARGV[2] == '' then
    redis.call('HDEL', KEYS[2], ARGV[1])
    if holder == ARGV[1] then
        redis.call('HDEL', KEYS[2], '')
    end
    return {redis.call('ZSCORE', KEYS[1], ARGV[1]) and 1 or 0, joined, last}
end
local came = string.match(redis.call('HGET', KEYS[2], ARGV[1]) or '', '^(%d+) ')
came = math.min(whole(came) or now, now)
redis.call('HSET', KEYS[2], ARGV[1], string.format('%.0f %.0f ', came, now) .. ARGV[2])
redis.call('PEXPIRE', KEYS[2], 5000)
if holder ~= ARGV[1] and turn > now and turn <= now + ARGV[3] then
    return {0, joined, last}
end
redis.call('HSET', KEYS[2], '', string.format('%.0f ', now + ARGV[3]) .. ARGV[1])
local waiting, answer = {{came, ARGV[1], ARGV[2]}}, {0, joined, last}
for i = 1, #fields, 2 do
    local first, last, said = string.match(fields[i + 1], '^(%d+) (%d+) (.*)$')
    first, last = whole(first), whole(last)
    if fields[i] ~= '' and fields[i] ~= ARGV[1] then
        if first and last and last + ARGV[4] > now then
            waiting[#waiting + 1] = {first, fields[i], said}
        else
            redis.call('HDEL', KEYS[2], fields[i])
        end
    end
end
table.sort(waiting, function(a, b) return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2]) end)
for _, one in ipairs(waiting) do
    answer[#answer + 1] = math.max(0, now - one[1])
    answer[#answer + 1] = one[3]
end
return answer
