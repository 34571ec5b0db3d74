-- Writes what changes nothing, so that a WAIT of the same connection waits for all that was written before (C7, G8), and rings. To ring is
-- not enough: in a cluster no replica has to confirm that.
-- KEYS: cuts.
-- ARGV: channel.

redis.call('HDEL', KEYS[1], '') -- S2: writes nothing, but lets the rest succeed when memory is full
redis.call('HSET', KEYS[1], '', '')
redis.call('HDEL', KEYS[1], '')
redis.pcall('SPUBLISH', ARGV[1], '') -- a hint: its failure must not fail the step
