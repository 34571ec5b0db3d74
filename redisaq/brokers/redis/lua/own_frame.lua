-- Not a script, but a function that some scripts begin with. Returns file, line and function of the last frame of a traceback that is own code,
-- three times '' if there is none. What own code is, redisaq/core/failures.py decides, too.

local function own_frame(traceback)
    local found = {'', '', ''}
    for file, line, name in string.gmatch(traceback, 'File "([^"\n]*)", line (%d+), in ([^\n]*)') do
        local path = string.gsub(file, '\\', '/')
        if not (string.find(path, '/site%-packages/') or string.find(path, '/dist%-packages/')
            or string.find(path, '/redisaq/consuming/') or string.find(path, '/lib/python')
            or string.find(path, '/Lib/') or string.sub(path, 1, 1) == '<') then
            found = {file, line, name}
        end
    end
    return found
end

