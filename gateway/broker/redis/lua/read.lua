-- KEYS: stream, meta, seen. ARGV[1]: MessagePack of ReadCall (scripts.py). Keeps nothing of a channel that is unused.
-- Returns epoch, base, seq, tag, the packets after ``seq`` of ``epoch`` (when that is not of this order: those of the
-- last ``back`` events), and the state: name, value as JSON and so on.
local arg = cmsgpack.unpack(ARGV[1])
local stream, meta = KEYS[1], KEYS[2]
local m = redis.call('HMGET', meta, 'epoch', 'base', 'seq', 'tag', 'state')
if not m[1] then return {arg.unused, '0', '0', '-', {}, {}} end
local packets, state = {}, {}
if arg.count > 0 then
  local last, after = tonumber(m[3]), arg.seq
  if arg.epoch ~= m[1] or after > last then after = math.max(last - arg.back, 0) end
  local entries = redis.call('XRANGE', stream, string.format('%.0f', after + 1), '+', 'COUNT', arg.count)
  for i = 1, #entries do packets[i] = entries[i][2][2] end
end
if m[5] and m[5] ~= '0' then
  local all = redis.call('HGETALL', meta)
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 2) == 's:' then
      state[#state + 1] = string.sub(all[i], 3)
      state[#state + 1] = all[i + 1]
    end
  end
end
return {m[1], m[2], m[3], m[4], packets, state}
