-- KEYS: revoked, when, state. ARGV[1]: MessagePack of RevokeCall (scripts.py).
-- Returns 0 when that many are there, all still needed.
local arg = cmsgpack.unpack(ARGV[1])
local revoked, when, state = unpack(KEYS)
local longest = math.max(tonumber(redis.call('HGET', state, 'longest') or 0), arg.longest)
local old = redis.call('ZRANGEBYSCORE', revoked, '-inf', text(now - longest), 'LIMIT', 0, 1000)
for _, each in ipairs(old) do
  redis.call('ZREM', revoked, each)
  redis.call('HDEL', when, each)
end
if redis.call('ZCARD', revoked) >= arg.most and not redis.call('ZSCORE', revoked, arg.revocation) then
  return 0
end
-- A clock may be set back: what is new has the highest number all the same, or nodes would not ask for it.
local newest = redis.call('ZREVRANGE', revoked, 0, 0, 'WITHSCORES')[2]
redis.call('ZADD', revoked, text(math.max(now, tonumber(newest or 0) + 1)), arg.revocation)
local before = redis.call('HGET', when, arg.revocation)
if not before or tonumber(before) < tonumber(arg.at) then redis.call('HSET', when, arg.revocation, arg.at) end
return 1
