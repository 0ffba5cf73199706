-- KEYS: leases, about, state. ARGV[1]: the lease of a node that has taken back all it said.
if redis.call('ZREM', KEYS[1], ARGV[1]) == 1 then redis.call('HINCRBY', KEYS[3], 'version', 1) end
return redis.call('HDEL', KEYS[2], ARGV[1])
