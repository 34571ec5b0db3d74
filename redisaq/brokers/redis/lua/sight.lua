-- Returns a group's position in a partition, and what trimming took before it was read.
-- KEYS: stream, lease.
-- ARGV: group, token, the caller's last sighting (position, or '', and ordinal), how many entries it has been given since.
-- Answers: nil if another token is current, else: the id up to which everything is counted, the ordinal of the group's position or nil,
--       how many entries were lost, above which id, below which ('' if there is no entry). A missing group has the position ''.
--
-- The ordinal of an id is how many entries were ever added up to it. Redis keeps the ordinal of a group's position as entries-read, but
-- servers differ after trimming has passed a group. Redis 7.0 goes on counting from the old value, which is then too low by what was lost.
-- Later servers correct it at the next read, so that it grows by more than was read. This script corrects it at once on all of them, so
-- that nothing is counted twice.

redis.call('HDEL', KEYS[2], '') -- S2: writes nothing, but lets the rest succeed when memory is full
if redis.call('HGET', KEYS[2], 'token') ~= ARGV[2] then
    return false
end
local gone = {'', false, 0, '', ''}
if redis.call('EXISTS', KEYS[1]) == 0 then
    return gone
end

local position, ordinal
for _, row in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local group = facts_of(row)
    if group.name == ARGV[1] then
        position, ordinal = group['last-delivered-id'], group['entries-read'] or false
    end
end
if not position then
    return gone
end
local stream = facts_of(redis.call('XINFO', 'STREAM', KEYS[1]))
local added, deleted, last = stream['entries-added'], stream['max-deleted-entry-id'], stream['last-generated-id']
local first = stream['first-entry'] and stream['first-entry'][1]
local lost, after, known = 0, position, ordinal
local counted = position -- everything up to this id is counted
local passed = (first and above(first, position)) or (not first and above(last, position))

-- Deleted entries are no loss. But on a server that counts on, they also make entries-read too low, so nothing is sure until it is corrected.
local since = ARGV[3]
local sure = since ~= '' and not above(deleted, since)
local counts_on = redis.REDIS_VERSION_NUM < 0x00070400 and rawget(_G, 'server') == nil
local doubtful = counts_on and not sure and deleted ~= '0-0'

-- An entry above the earlier position can have been trimmed only if nothing up to that position is left.
if ordinal and sure and (not first or above(first, since)) then
    lost = math.max(0, ordinal - ARGV[4] - ARGV[5])
    if lost > 0 then
        after = since
    end
    if added > stream.length then
        counted = since -- a server that counts on shows a loss only at the end, or at the next gap
    end
end
if position == last then
    if counts_on and ordinal and added > ordinal and not doubtful then
        lost = lost + added - ordinal
        after = since ~= '' and since or '0-0'
    end
    if counts_on or not ordinal then
        ordinal = added
    end
    counted = position
elseif passed and not above(deleted, position) then -- everything before the first entry is gone, and nothing else
    local removed = added - stream.length
    if ordinal and not doubtful then
        lost = lost + math.max(0, removed - ordinal)
    end
    ordinal = removed
    counted = position
elseif doubtful then
    counted = since ~= '' and since or '0-0'
end
if known and ordinal ~= known then -- S2: changes nothing; if the server refuses it, nothing has been counted (without `known`, nothing is)
    redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], position, 'ENTRIESREAD', known)
end
if lost > 0 then
    redis.call('HSET', KEYS[2], 'lost', string.format('%.0f', (whole(redis.call('HGET', KEYS[2], 'lost')) or 0) + lost))
end
if ordinal and ordinal ~= known then
    redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], position, 'ENTRIESREAD', ordinal)
end
return {counted, ordinal, lost, lost > 0 and after or '', lost > 0 and first or ''}
