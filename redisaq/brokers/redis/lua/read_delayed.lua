-- Returns a delayed message.
-- KEYS: delayed, bodies of delayed.
-- ARGV: message id.
-- Answers: its score or nil, its body or nil.

return {redis.call('ZSCORE', KEYS[1], ARGV[1]), redis.call('HGET', KEYS[2], ARGV[1])}
