-- Not a script, but a function that some scripts begin with. Returns the run of the server that executes the script.

local function this_run()
    return string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
end
