-- Not a script, but a function that some scripts begin with. Counts the entries of a stream that a group has not been given;
-- above `enough`, the number need not be exact. `group` is the group's row of XINFO.

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
                break
            end
            after = entries[wanted][1]
        end
    end
    return math.min(count, redis.call('XLEN', stream)) -- the lag of some servers includes entries that were trimmed unread
end

