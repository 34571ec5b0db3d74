-- Returns what is stored of cron jobs.
-- KEYS: schedules.
-- Answers: now in us (text, since a Lua number would lose digits, M6), jobs each with its stored text.

local time = redis.call('TIME')
return {time[1] .. string.format('%06d', time[2]), redis.call('HGETALL', KEYS[1])}
