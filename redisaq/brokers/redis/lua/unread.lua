-- Not a script, but functions that some scripts begin with.

-- Lets the server know how many entries it has given a group, after they were counted: from then on it knows the lag itself, and no later
-- look counts again (300,000 entries take a second, in which it does nothing else). Not sure if entries above the group's position were
-- deleted. A server that refuses it counts again.
local function note_unread(stream, group, count)
    local facts, position = facts_of(redis.call('XINFO', 'STREAM', stream)), group['last-delivered-id']
    if not above(facts['max-deleted-entry-id'], position) then
        redis.pcall('XGROUP', 'SETID', stream, group.name, position, 'ENTRIESREAD', facts['entries-added'] - count)
    end
end

-- Counts the entries of a stream that a group has not been given; above `enough`, the number need not be exact. `group` is the group's row
-- of XINFO.
local function unread(stream, group, enough)
    local count = group.lag
    if not count then -- after deletions, or a seek, the server does not know the lag
        local after = group['last-delivered-id']
        count = 0
        while count <= enough do
            local wanted = math.min(500, enough - count + 1) -- their payloads come with them
            local entries = redis.call('XRANGE', stream, '(' .. after, '+', 'COUNT', wanted)
            count = count + #entries
            if #entries < wanted then
                note_unread(stream, group, count)
                break
            end
            after = entries[wanted][1]
        end
    end
    return math.min(count, redis.call('XLEN', stream)) -- the lag of some servers includes entries that were trimmed unread
end

