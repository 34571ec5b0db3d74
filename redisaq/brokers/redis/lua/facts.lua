-- Not a script, but a function that some scripts begin with. Returns an answer of XINFO as a table from names to values.

local function facts_of(row)
    local facts = {}
    for i = 1, #row, 2 do
        facts[row[i]] = row[i + 1]
    end
    return facts
end

