-- Trims what every group has done with and is old enough (E3). KEYS: stream.
-- ARGV: when the caller knew the following in us, for how long everything is kept in ms, after which time a group without reads may have lapsed
--       in ms, how many entries one step may take, how many groups have lapsed, and these, then groups that must be in the stream.
-- Answers: how many entries were removed, 1 if there may be more to be removed, 1 if entries are kept that will go: for their age,
--          or for a group that is behind.

local nothing = {0, 0, 0}
if redis.call('EXISTS', KEYS[1]) == 0 then
    return nothing
end
local function parts(id)
    local time, sequence = string.match(id, '^(%d+)%-(%d+)$')
    return tonumber(time), tonumber(sequence)
end
local function below(id, other)
    local time, sequence = parts(id)
    local other_time, other_sequence = parts(other)
    return time < other_time or (time == other_time and sequence < other_sequence)
end

local first_required = 6 + ARGV[5]
local lapsed = {}
for i = 6, first_required - 1 do
    lapsed[ARGV[i]] = true
end
local function reads(group) -- also a reader that is no member keeps its group's entries
    for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], group)) do
        for i = 1, #row, 2 do
            if row[i] == 'idle' and row[i + 1] < tonumber(ARGV[3]) then
                return true
            end
        end
    end
    return false
end

local there, floor, highest = {}, nil, nil
for _, row in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local facts = {}
    for i = 1, #row, 2 do
        facts[row[i]] = row[i + 1]
    end
    there[facts.name] = true
    if not lapsed[facts.name] or reads(facts.name) then
        local pinned = facts['last-delivered-id'] -- it stays: a lost group is made again after it (T6)
        if not highest or below(highest, pinned) then
            highest = pinned
        end
        if facts.pending > 0 then
            pinned = redis.call('XPENDING', KEYS[1], facts.name)[2]
        end
        if not floor or below(pinned, floor) then
            floor = pinned
        end
    end
end
for i = first_required, #ARGV do
    if not there[ARGV[i]] then
        return nothing
    end
end
if not floor then
    return nothing
end

-- A command that was held up must not take what was too young when its caller knew the producers' time limit.
local time = redis.call('TIME')
local now = math.min(time[1] * 1000 + math.floor(time[2] / 1000), math.floor(ARGV[1] / 1000))
local old = redis.call('XREVRANGE', KEYS[1], string.format('%.0f', math.max(0, now - ARGV[2])), '-', 'COUNT', 1)[1]
local later = below(floor, highest) and 1 or 0
if not old or below(old[1], floor) then
    later = 1
    floor = old and old[1]
end
if not floor then
    return {0, 0, later}
end
-- Whole nodes first, as many as a step may take; when there are none left, the rest is less than one.
local removed = redis.call('XTRIM', KEYS[1], 'MINID', '~', floor, 'LIMIT', ARGV[4])
if removed > 0 then
    return {removed, 1, later}
end
return {redis.call('XTRIM', KEYS[1], 'MINID', '=', floor), 0, later}
