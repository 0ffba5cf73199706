-- KEYS: dying, about. ARGV[1]: a lease of which nothing is left.
redis.call('ZREM', KEYS[1], ARGV[1])
return redis.call('HDEL', KEYS[2], ARGV[1])
