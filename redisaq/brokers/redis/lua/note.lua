-- Not a script, but a function that some scripts begin with. Adds a change to a group's history. Its failure must not fail the step.

local function note(history, change)
    if change ~= '' then
        redis.pcall('XADD', history, 'MAXLEN', '~', 1000, '*', 'c', change)
    end
end

