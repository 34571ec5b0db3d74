-- Not a script, but a function that some scripts begin with. Returns the fields of a topic's meta that make its state, as they are stored.

local function topic_of(meta)
    return redis.call('HMGET', meta, 'generation', 'partitions', 'retention', 'send_timeout', 'format', 'history', 'pending', 'grown')
end

