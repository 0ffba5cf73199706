-- KEYS: mine of some leases. ARGV[1]: user. Returns the user's connections under each.
local found = {}
for i, key in ipairs(KEYS) do found[i] = tonumber(redis.call('HGET', key, ARGV[1]) or 0) end
return found
