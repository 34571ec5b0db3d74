-- Not a script, but a function that some scripts begin with. Tells whether an entry id comes after another, as the server orders them.

local function above(id, other)
    local time, sequence = string.match(id, '^(%d+)%-(%d+)$')
    local other_time, other_sequence = string.match(other, '^(%d+)%-(%d+)$')
    time, other_time = tonumber(time), tonumber(other_time)
    return time > other_time or (time == other_time and tonumber(sequence) > tonumber(other_sequence))
end

