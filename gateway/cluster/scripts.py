"""What the nodes keep together in Redis, and the steps that change it.

Under one hash tag, so that one script sees it whole:

``leases``   sorted set: lease → time (ms) until which it is good
``about``    hash: lease → what is known of its node, as JSON
``dying``    sorted set: lease whose time was over → until when somebody is removing what it left
``state``    hash: ``beat`` (when a node was last heard of), ``grace`` (until when nobody is declared dead),
             ``version`` (changes with the leases), ``longest`` (lifetime of tokens, ms)
``revoked``  sorted set: revocation → when it came (ms of Redis); ``when``: hash, → seconds of the revoking
node

For each channel with presence (a room, or an organisation as a whole), under a tag of its own:

``totals``   hash: ``u<user>`` → connections on all nodes (``u`` for those without a user), ``v`` the
number of the
             last change, ``w`` the time (ms) until which some node wants to be told of changes
``mine``     of each lease, a hash: user → connections on that node

The channels in which a lease has something are a set of their own, written before and cleared after.
"""

from __future__ import annotations

from typing import Final

from gateway.broker.redis.scripts import Script

__all__ = ["BEAT", "BURY", "COUNT", "LEAVE", "READ", "REVOKE", "SET", "WHERE"]

_NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local text = function(number) return string.format('%.0f', number) end
"""

BEAT: Final = Script(
    _NOW
    + """
-- KEYS: leases, about, dying, state, revoked, when. ARGV: lease, about, ms that a lease is good,
-- ms after which a silence was of Redis and not of one node, ms for removing what a lease left, version that
-- is known, time of the last revocation that is known, longest lifetime of a token in ms, revocations at
-- once. Returns nothing when the lease is being removed, else: whether it is new here, version, the leases
-- and what is known of them (when the version is another), leases that the caller is to remove, revocations,
-- and Redis' time in ms.
local leases, about, dying, state, revoked, when = unpack(KEYS)
local lease, ttl = ARGV[1], tonumber(ARGV[3])
if redis.call('ZSCORE', dying, lease) then return {} end
local known = redis.call('HMGET', state, 'beat', 'grace', 'version', 'longest')
local grace, version = tonumber(known[2] or 0), tonumber(known[3] or now)
-- When nobody was heard of, Redis was away: then nobody is dead before having had the time to say otherwise.
if known[1] and now - known[1] > tonumber(ARGV[4]) then grace = now + ttl end
local new = redis.call('ZADD', leases, text(now + ttl), lease)
if new == 1 then
  redis.call('HSET', about, lease, ARGV[2])
  version = version + 1
end
if known[1] and now < tonumber(known[1]) then
  -- The clock was set back: no lease and no claim is good for longer than one that begins now.
  for key, most in pairs({[leases] = now + ttl, [dying] = now + tonumber(ARGV[5])}) do
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
  redis.call('ZADD', dying, text(now + tonumber(ARGV[5])), each)
  over[#over + 1] = each
end
redis.call('HSET', state, 'beat', text(now), 'grace', text(grace), 'version', text(version),
  'longest', text(math.max(tonumber(known[4] or 0), tonumber(ARGV[8]))))
local members = {}
if text(version) ~= ARGV[6] then
  for _, each in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
    members[#members + 1] = each
    members[#members + 1] = redis.call('HGET', about, each) or '{}'
  end
end
local found = {}
local from = tonumber(ARGV[7])
-- Who knows more than there is knows it from before data was lost, or the clock was set back.
if from > tonumber(redis.call('ZREVRANGE', revoked, 0, 0, 'WITHSCORES')[2] or 0) then from = 0 end
local entries = redis.call('ZRANGEBYSCORE', revoked, text(from), '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[9])
for i = 1, #entries, 2 do
  found[#found + 1] = entries[i]
  found[#found + 1] = entries[i + 1]
  found[#found + 1] = redis.call('HGET', when, entries[i])
end
return {new, text(version), members, over, found, text(now)}
"""
)

LEAVE: Final = Script(
    """
-- KEYS: leases, about, state. ARGV: lease, whose node has taken back all it said.
if redis.call('ZREM', KEYS[1], ARGV[1]) == 1 then redis.call('HINCRBY', KEYS[3], 'version', 1) end
return redis.call('HDEL', KEYS[2], ARGV[1])
"""
)

BURY: Final = Script(
    """
-- KEYS: dying, about. ARGV: lease, of which nothing is left.
redis.call('ZREM', KEYS[1], ARGV[1])
return redis.call('HDEL', KEYS[2], ARGV[1])
"""
)

REVOKE: Final = Script(
    _NOW
    + """
-- KEYS: revoked, when, state. ARGV: revocation, seconds of this node's clock, longest lifetime of a token
-- in ms, how many are kept. Returns 0 when that many are there, all still needed.
local revoked, when, state = unpack(KEYS)
local longest = math.max(tonumber(redis.call('HGET', state, 'longest') or 0), tonumber(ARGV[3]))
local old = redis.call('ZRANGEBYSCORE', revoked, '-inf', text(now - longest), 'LIMIT', 0, 1000)
for _, each in ipairs(old) do
  redis.call('ZREM', revoked, each)
  redis.call('HDEL', when, each)
end
if redis.call('ZCARD', revoked) >= tonumber(ARGV[4]) and not redis.call('ZSCORE', revoked, ARGV[1]) then
  return 0
end
-- A clock may be set back: what is new has the highest number all the same, or nodes would not ask for it.
local newest = redis.call('ZREVRANGE', revoked, 0, 0, 'WITHSCORES')[2]
redis.call('ZADD', revoked, text(math.max(now, tonumber(newest or 0) + 1)), ARGV[1])
local before = redis.call('HGET', when, ARGV[1])
if not before or tonumber(before) < tonumber(ARGV[2]) then redis.call('HSET', when, ARGV[1], ARGV[2]) end
return 1
"""
)

_EMPTY: Final = """
local function users(totals)
  return redis.call('HLEN', totals) - redis.call('HEXISTS', totals, 'v') - redis.call('HEXISTS', totals, 'w')
end
"""

SET: Final = Script(
    _NOW
    + _EMPTY
    + """
-- KEYS: totals, mine. ARGV: user and number of connections on this node, as often as needed.
-- Returns whether somebody wants to be told, and for each user who has come or gone: number of the change,
-- join or leave, user. Carried out twice it changes nothing more.
local totals, mine = KEYS[1], KEYS[2]
local known = redis.call('HMGET', totals, 'v', 'w')
local version = tonumber(known[1] or time[1] * 1000000 + time[2])
local watched = tonumber(known[2] or 0) - now
local changes = {watched > 0 and 1 or 0}
for i = 1, #ARGV, 2 do
  local user, count = ARGV[i], tonumber(ARGV[i + 1])
  local by = count - tonumber(redis.call('HGET', mine, user) or 0)
  if by ~= 0 then
    if count == 0 then redis.call('HDEL', mine, user) else redis.call('HSET', mine, user, count) end
    local total = redis.call('HINCRBY', totals, 'u' .. user, by)
    if total <= 0 then redis.call('HDEL', totals, 'u' .. user) end
    if user ~= '' and (total <= 0) ~= (total - by <= 0) then
      version = version + 1
      changes[#changes + 1] = text(version)
      changes[#changes + 1] = total > 0 and 'join' or 'leave'
      changes[#changes + 1] = user
    end
  end
end
if #changes > 1 then redis.call('HSET', totals, 'v', text(version)) end
if users(totals) > 0 then
  redis.call('PERSIST', totals)
elseif watched > 0 then
  redis.call('PEXPIRE', totals, watched)
else
  redis.call('DEL', totals)
end
return changes
"""
)

READ: Final = Script(
    _NOW
    + _EMPTY
    + """
-- KEYS: totals. ARGV: ms for which the caller wants to be told of changes, or 0; 1 for all, 0 for the
-- version alone. Returns the version ('' when nobody was ever there), then each user as u<user> and
-- connections.
local totals, wanted = KEYS[1], tonumber(ARGV[1])
if wanted > 0 then
  local known = redis.call('HGET', totals, 'w')
  redis.call('HSET', totals, 'w', text(math.max(tonumber(known or 0), now + wanted)))
  if users(totals) == 0 then redis.call('PEXPIRE', totals, wanted) end
end
local found = {redis.call('HGET', totals, 'v') or ''}
if ARGV[2] == '1' then
  local all = redis.call('HGETALL', totals)
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 1) == 'u' then
      found[#found + 1] = string.sub(all[i], 2)
      found[#found + 1] = all[i + 1]
    end
  end
end
return found
"""
)

COUNT: Final = Script(
    _EMPTY
    + """
-- KEYS: totals. Returns how many users there are.
return users(KEYS[1]) - redis.call('HEXISTS', KEYS[1], 'u')
"""
)

WHERE: Final = Script(
    """
-- KEYS: mine of some leases. ARGV: user. Returns the user's connections under each.
local found = {}
for i, key in ipairs(KEYS) do found[i] = tonumber(redis.call('HGET', key, ARGV[1]) or 0) end
return found
"""
)
