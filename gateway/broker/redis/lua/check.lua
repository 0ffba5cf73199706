-- KEYS: stream, meta, seen of each channel. ARGV[1]: MessagePack of CheckCall (scripts.py).
-- Returns for each channel epoch, base, seq, tag; or one text, the reason, when it failed, and with it nobody else.
-- When Redis no longer has what the caller knows (it lost data: a fail-over to a replica that was behind, a
-- crash), the order gets a new epoch, and all are told.
local arg = cmsgpack.unpack(ARGV[1])

local function is_gone(stream, m, seq, tag)
  local last = tonumber(m[3])
  if last <= seq then return last < seq or m[4] ~= tag end
  local entry = redis.call('XRANGE', stream, seq, '+', 'COUNT', 1)[1]
  if not entry then return false end
  local first, count, this, prev = string.match(entry[2][2], '^%S+ (%d+) (%d+) (%S+) (%S+)')
  first = tonumber(first)
  if first == seq + 1 then return prev ~= tag end
  if first + count - 1 == seq then return this ~= tag end
  return first <= seq
end

local function check(stream, meta, seen, known)
  local epoch, seq, tag = unpack(known)
  local m = redis.call('HMGET', meta, 'epoch', 'base', 'seq', 'tag')
  if not m[1] then
    begin(stream, meta, seen, arg.newborn)
    m = {arg.newborn, '0', '0', '-'}
  elseif epoch == m[1] and is_gone(stream, m, seq, tag) then
    redis.call('HSET', meta, 'epoch', arg.newborn, 'base', m[3], 'tag', '-')
    redis.call(arg.tell, stream, arg.newborn .. ' ' .. string.format('%.0f', m[3] + 1) .. ' 0 - - 0\n[]')
    m = {arg.newborn, m[3], m[3], '-'}
  end
  -- A room in which nothing was published costs nothing soon after its last member has left.
  redis.call('PEXPIRE', meta, tonumber(m[3]) > 0 and arg.forget or arg.forget_unused)
  return {m[1], m[2], m[3], m[4]}
end

local found = {}
for number, known in ipairs(arg.known) do
  local c = 3 * number - 2
  local good, place = pcall(check, KEYS[c], KEYS[c + 1], KEYS[c + 2], known)
  found[number] = good and place or reason(place)
end
return found
