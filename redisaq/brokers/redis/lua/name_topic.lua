-- Adds a topic's name to the list.
-- KEYS: topics.
-- ARGV: name.
-- Answers: 1 if it is new, else 0.

redis.call('SREM', KEYS[1], '') -- S2: writes nothing, but lets the rest succeed when memory is full
return redis.call('SADD', KEYS[1], ARGV[1])
