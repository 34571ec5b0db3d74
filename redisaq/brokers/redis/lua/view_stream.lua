-- Returns what a partition holds.
-- KEYS: stream, delayed.
-- Answers: entries, how many messages are delayed, the names of the groups.

local names = {}
if redis.call('EXISTS', KEYS[1]) == 1 then
    for _, row in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
        for i = 1, #row, 2 do
            if row[i] == 'name' then
                names[#names + 1] = row[i + 1]
            end
        end
    end
end
return {redis.call('XLEN', KEYS[1]), redis.call('ZCARD', KEYS[2]), names}
