-- Counts the messages that wait for their time.
-- KEYS: due times. ARGV: moments.
-- Answers: for each moment, how many are due before it.

local counts = {}
for place = 1, #ARGV do
    counts[place] = redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. ARGV[place])
end
return counts
