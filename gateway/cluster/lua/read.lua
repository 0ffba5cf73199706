-- KEYS: totals. ARGV[1]: MessagePack of ReadCall (scripts.py).
-- Returns the version ('' when nobody was ever there), then each user as u<user> and connections.
local arg = cmsgpack.unpack(ARGV[1])
local totals, wanted = KEYS[1], arg.watch
if wanted > 0 then
  local known = redis.call('HGET', totals, 'w')
  redis.call('HSET', totals, 'w', text(math.max(tonumber(known or 0), now + wanted)))
  if users(totals) == 0 then redis.call('PEXPIRE', totals, wanted) end
end
local found = {redis.call('HGET', totals, 'v') or ''}
if arg.all then
  local all = redis.call('HGETALL', totals)
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 1) == 'u' then
      found[#found + 1] = string.sub(all[i], 2)
      found[#found + 1] = all[i + 1]
    end
  end
end
return found
