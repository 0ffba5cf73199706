-- KEYS: stream, meta, seen. ARGV[1]: MessagePack of ReadCall (scripts.py). Keeps nothing of a channel that is unused.
-- Returns epoch, base, seq, tag, the packets after ``seq`` of ``epoch`` (when that is not of this order: those of the
-- last ``back`` events), the state: name, value as JSON and so on, and the age of each packet in ms, -1 when it was
-- written by a release that did not take that down.
local arg = cmsgpack.unpack(ARGV[1])
local stream, meta = KEYS[1], KEYS[2]
local m = redis.call('HMGET', meta, 'epoch', 'base', 'seq', 'tag', 'state')
if not m[1] then return {arg.unused, '0', '0', '-', {}, {}, {}} end
local packets, state, ages = {}, {}, {}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if arg.count > 0 then
  local last, after = tonumber(m[3]), arg.seq
  if arg.epoch ~= m[1] or after > last then after = math.max(last - arg.back, 0) end
  local entries = redis.call('XRANGE', stream, string.format('%.0f', after + 1), '+', 'COUNT', arg.count)
  for i, entry in ipairs(entries) do
    local _, packet, _, at = unpack(entry[2])
    packets[i] = packet
    ages[i] = at and math.max(now - at, 0) or -1
  end
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
return {m[1], m[2], m[3], m[4], packets, state, ages}
