-- Trims what every group has settled and is old enough (E3).
-- KEYS: stream.
-- ARGV: when the caller learned the following, in us; for how long everything is kept, in ms; after which time without reads a group may
--       have lapsed, in ms; how many entries one step may trim; the number of lapsed groups, and these; then groups that must be in the
--       stream.
-- Answers: how many entries were removed, 1 if there may be more to remove, 1 if some entries are kept now that will go later, for their
--       age or for a group that is behind.

local nothing = {0, 0, 0}
if redis.call('EXISTS', KEYS[1]) == 0 then
    return nothing
end

local first_required = 6 + ARGV[5]
local lapsed = {}
for i = 6, first_required - 1 do
    lapsed[ARGV[i]] = true
end
local function reads(group) -- a reader keeps its group's entries even if no member does
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
    local facts = facts_of(row)
    there[facts.name] = true
    if not lapsed[facts.name] or reads(facts.name) then
        local pinned = facts['last-delivered-id'] -- this entry stays: a lost group is made again after it (T6)
        if not highest or above(pinned, highest) then
            highest = pinned
        end
        if facts.pending > 0 then
            pinned = redis.call('XPENDING', KEYS[1], facts.name)[2]
        end
        if not floor or above(floor, pinned) then
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

-- A delayed command must not trim what was too young when its caller learned the producers' time limit.
local time = redis.call('TIME')
local now = math.min(time[1] * 1000 + math.floor(time[2] / 1000), math.floor(ARGV[1] / 1000))
local old = redis.call('XREVRANGE', KEYS[1], string.format('%.0f', math.max(0, now - ARGV[2])), '-', 'COUNT', 1)[1]
local later = above(highest, floor) and 1 or 0
if not old or above(floor, old[1]) then
    later = 1
    floor = old and old[1]
end
if not floor then
    return {0, 0, later}
end
-- First whole nodes of the stream, as many as one step may trim. When none are left, the rest is less than a node.
local removed = redis.call('XTRIM', KEYS[1], 'MINID', '~', floor, 'LIMIT', ARGV[4])
if removed > 0 then
    return {removed, 1, later}
end
return {redis.call('XTRIM', KEYS[1], 'MINID', '=', floor), 0, later}
