-- Not a script, but a function that some scripts begin with. Returns a stored text as a number if it is a whole number that redisaq can
-- have written, else nil. Doubles hold these exactly, so they may be compared; only their texts are ever stored or answered (M6).

local function whole(text)
    if text and #text <= 16 and string.find(text, '^%d+$') and tonumber(text) < 9007199254740992 then
        return tonumber(text)
    end
    return nil
end
