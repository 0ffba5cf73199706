-- KEYS: leases, about, dying, state, revoked, when. ARGV[1]: MessagePack of BeatCall (scripts.py).
-- Returns nothing when the lease is being removed, else: whether it is new here, version, the leases and what is
-- known of them (when the version is another), leases that the caller is to remove, revocations, and Redis' time
-- in ms.
local arg = cmsgpack.unpack(ARGV[1])
local leases, about, dying, state, revoked, when = unpack(KEYS)
local lease, ttl = arg.lease, arg.ttl
if redis.call('ZSCORE', dying, lease) then return {} end
local known = redis.call('HMGET', state, 'beat', 'grace', 'version', 'longest')
local grace, version = tonumber(known[2] or 0), tonumber(known[3] or now)
-- When nobody was heard of, Redis was away: then nobody is dead before having had the time to say otherwise.
if known[1] and now - known[1] > arg.quiet then grace = now + ttl end
local new = redis.call('ZADD', leases, text(now + ttl), lease)
if new == 1 then
  redis.call('HSET', about, lease, arg.about)
  version = version + 1
end
if known[1] and now < tonumber(known[1]) then
  -- The clock was set back: no lease and no claim is good for longer than one that begins now.
  for key, most in pairs({[leases] = now + ttl, [dying] = now + arg.claim}) do
    for _, each in ipairs(redis.call('ZRANGEBYSCORE', key, '(' .. text(most), '+inf')) do
      redis.call('ZADD', key, text(most), each)
    end
  end
  grace = math.min(grace, now + ttl)
end
local over = {}
if now >= grace then
  for _, each in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', '(' .. text(now), 'LIMIT', 0, 16)) do
    redis.call('ZREM', leases, each)
    redis.call('ZADD', dying, 0, each)
    version = version + 1
  end
end
for _, each in ipairs(redis.call('ZRANGEBYSCORE', dying, '-inf', '(' .. text(now), 'LIMIT', 0, 16)) do
  redis.call('ZADD', dying, text(now + arg.claim), each)
  over[#over + 1] = each
end
redis.call('HSET', state, 'beat', text(now), 'grace', text(grace), 'version', text(version),
  'longest', text(math.max(tonumber(known[4] or 0), arg.longest)))
local members = {}
if text(version) ~= arg.version then
  for _, each in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
    members[#members + 1] = each
    members[#members + 1] = redis.call('HGET', about, each) or '{}'
  end
end
local found = {}
local from = arg.cursor
-- Who knows more than there is knows it from before data was lost, or the clock was set back.
if from > tonumber(redis.call('ZREVRANGE', revoked, 0, 0, 'WITHSCORES')[2] or 0) then from = 0 end
local entries = redis.call('ZRANGEBYSCORE', revoked, text(from), '+inf', 'WITHSCORES', 'LIMIT', 0, arg.page)
for i = 1, #entries, 2 do
  found[#found + 1] = entries[i]
  found[#found + 1] = entries[i + 1]
  found[#found + 1] = redis.call('HGET', when, entries[i])
end
return {new, text(version), members, over, found, text(now)}
