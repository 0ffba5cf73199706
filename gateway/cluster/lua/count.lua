-- KEYS: totals. Returns how many users there are.
return users(KEYS[1]) - redis.call('HEXISTS', KEYS[1], 'u')
