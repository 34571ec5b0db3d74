-- Counts dead letters that have failed alike, the newest first, without returning them.
-- KEYS: dead. ARGV: the id to begin below ('' for the newest), how many, how many bytes of an error's text.
-- Answers: how many were counted, the id of the last one or '', then for each failure: how many, the newest id, the oldest id, error, text;
-- file, line, function of the last own frame of the traceback. Without the last five for entries that redisaq did not write.

local below = ARGV[1] == '' and '+' or '(' .. ARGV[1]
local entries = redis.call('XREVRANGE', KEYS[1], below, '-', 'COUNT', ARGV[2])
local kinds, places, frames = {}, {}, {}
for _, entry in ipairs(entries) do
    local words = entry[2]
    local reasons = #words - 18
    local ours = words[reasons + 1] == 'error' and words[reasons + 17] == 'life'
    local name, text, frame = '', '', nil
    if ours then
        local traceback = words[reasons + 6]
        frame = frames[traceback]
        if not frame then
            frame = own_frame(traceback)
            frames[traceback] = frame
        end
        text = string.sub(words[reasons + 4], 1, tonumber(ARGV[3]))
        name = table.concat({words[reasons + 2], text, frame[1], frame[2], frame[3]}, '\0')
    end
    local kind = kinds[places[name]]
    if kind then
        kind[1] = kind[1] + 1
        kind[3] = entry[1]
    else
        places[name] = #kinds + 1
        kinds[#kinds + 1] = ours and {1, entry[1], entry[1], words[reasons + 2], text, frame[1], frame[2], frame[3]} or {1, entry[1], entry[1]}
    end
end
local last = entries[#entries]
return {#entries, last and last[1] or '', kinds}
