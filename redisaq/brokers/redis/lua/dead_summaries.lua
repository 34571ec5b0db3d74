-- Returns the newest dead letters without their payloads and tracebacks.
-- KEYS: dead. ARGV: the id to begin below ('' for the newest), how many, how many bytes of an error's text.
-- Answers, for each: its id, message id, key, then as in the letter: error, text, attempts, origin, life; file, line, function of the last
-- own frame of the traceback. For an entry that redisaq did not write: its id.

local below = ARGV[1] == '' and '+' or '(' .. ARGV[1]
local letters = {}
for _, entry in ipairs(redis.call('XREVRANGE', KEYS[1], below, '-', 'COUNT', ARGV[2])) do
    local words = entry[2]
    local reasons = #words - 18
    if words[reasons + 1] ~= 'error' or words[reasons + 17] ~= 'life' then
        letters[#letters + 1] = {entry[1]}
    else
        local id, key = '', false
        for place = 1, reasons, 2 do
            if words[place] == 'i' then id = words[place + 1] end
            if words[place] == 'k' then key = words[place + 1] end
        end
        local frame = own_frame(words[reasons + 6])
        letters[#letters + 1] = {entry[1], id, key, words[reasons + 2], string.sub(words[reasons + 4], 1, tonumber(ARGV[3])),
            words[reasons + 8], words[reasons + 14], words[reasons + 18], frame[1], frame[2], frame[3]}
    end
end
return letters
