-- KEYS: totals, mine. ARGV[1]: MessagePack of SetCall (scripts.py).
-- Returns whether somebody wants to be told, and for each user who has come or gone: number of the change,
-- join or leave, user. Carried out twice it changes nothing more.
local arg = cmsgpack.unpack(ARGV[1])
local totals, mine = KEYS[1], KEYS[2]
local known = redis.call('HMGET', totals, 'v', 'w')
local version = tonumber(known[1] or time[1] * 1000000 + time[2])
local watched = tonumber(known[2] or 0) - now
local changes = {watched > 0 and 1 or 0}
for _, each in ipairs(arg.counts) do
  local user, count = unpack(each)
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
