-- KEYS: stream, meta, seen of each channel.
-- ARGV[1]: MessagePack of PublishCall (scripts.py); then of each event, in the order of the channels: message
-- id, event as JSON.
-- Returns for each channel "epoch first", or "epoch =place,place,..." when some were there already or have no
-- place (0: the state has no room for its effect), or "!reason" when it failed, and with it nobody else; then the
-- bytes that each keeps.
local arg = cmsgpack.unpack(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local mine = 'w:' .. arg.writer
local text = function(number) return string.format('%.0f', number) end

local function forget_writers(meta)
  local all = redis.call('HGETALL', meta)
  for i = 1, #all, 2 do
    local used = string.sub(all[i], 1, 2) == 'w:' and tonumber(string.match(all[i + 1], '^%d+ (%d+)'))
    if used and now - used > 600000 then redis.call('HDEL', meta, all[i]) end
  end
end

-- Takes the effects that the state has room for; returns which are refused, what is to be written, and the bytes.
local function judge(meta, effects, held, is_new)
  local refused, entries = {}, {}
  for _, effect in ipairs(effects) do
    local number, name, value = effect[1], effect[2], effect[3]
    if is_new(number) then
      local before = entries[name]
      if before == nil then before = redis.call('HGET', meta, 's:' .. name) end
      local was = before and #name + #before + arg.entry_bytes or 0
      local will = value and #name + #value + arg.entry_bytes or 0
      if will > was and held + will - was > arg.state_bytes then
        refused[number] = true
      else
        held = held + will - was
        entries[name] = value or false
      end
    end
  end
  return refused, entries, held
end

local function write_state(meta, entries, held)
  for name, value in pairs(entries) do
    if value then redis.call('HSET', meta, 's:' .. name, value) else redis.call('HDEL', meta, 's:' .. name) end
  end
  redis.call('HSET', meta, 'state', text(held))
end

local function publish(stream, meta, seen, channel, at)
  local keep, bytes, age, window, batch, count, effects = unpack(channel)
  local m = redis.call('HMGET', meta,
    'epoch', 'seq', 'tag', 'total', 'low', 'touched', 'mark', 'marked', mine, 'state')
  local newborn = not m[1]
  if newborn then
    begin(stream, meta, seen, arg.newborn)
    m = {arg.newborn, 0, '-', 0, false, false, false, false, false, false}
  end
  local epoch, seq, prev, total = m[1], tonumber(m[2]), m[3], tonumber(m[4])
  local low = tonumber(m[5] or 0)
  local known_writer, earlier, answer = m[9], nil, nil
  if known_writer then
    local number, said = string.match(m[9], '^(%d+) %d+ (.*)$')
    earlier, answer = tonumber(number), said
  end
  -- A batch comes twice when its writer lost the connection and could not know.
  if earlier and batch <= earlier then return answer, total - low end

  local mids, places, parts, new, here, plain = {}, {}, {}, {}, {}, true
  for i = 1, count do mids[i] = ARGV[at + 2 * i - 2] end
  local known = newborn and {} or redis.call('ZMSCORE', seen, unpack(mids))
  local refused, entries, held = {}, nil, nil
  if effects then
    local taken = {}
    refused, entries, held = judge(meta, effects, tonumber(m[10] or 0), function(number)
      local mid = mids[number]
      if known[number] or taken[mid] then return false end
      taken[mid] = true
      return true
    end)
  end
  local first, fields = seq + 1, {}
  local function note(...) for _, each in ipairs({...}) do fields[#fields + 1] = each end end
  for i = 1, count do
    local place = here[mids[i]] or (known[i] and tonumber(known[i]))
    if place then
      plain = false
    elseif refused[i] then
      plain = false
      place = 0
    else
      seq = seq + 1
      place = seq
      here[mids[i]] = seq
      parts[#parts + 1] = ARGV[at + 2 * i - 1]
      new[#new + 1] = seq
      new[#new + 1] = mids[i]
    end
    places[i] = text(place)
  end
  if #parts > 0 then
    local body = '[' .. table.concat(parts, ',') .. ']'
    local tag = arg.writer .. '.' .. text(batch)
    total = total + #body
    -- Events before the last mark but one are older than the age.
    local oldest = math.max(seq - keep, 0)
    if not m[8] or now - m[8] >= age then
      oldest = math.max(oldest, tonumber(m[7] or 0))
      note('mark', text(first - 1), 'marked', text(now))
    end
    local packet
    local function add()
      packet = table.concat({epoch, text(first), #parts, tag, prev, text(total)}, ' ') .. '\n' .. body
      local id = redis.pcall('XADD', stream, 'MINID', '~', text(oldest + 1), text(seq) .. '-0',
        'p', packet, 'at', text(now))
      return type(id) == 'table' and id.err
    end
    local failed = add()
    if failed and not string.find(failed, 'equal or smaller', 1, true) then
      error(failed, 0)
    elseif failed then
      -- The stream is ahead of the rest (a backup that came back in parts, say): it is another history.
      redis.call('DEL', stream)
      epoch, prev, low = arg.newborn, '-', total - #body
      redis.call('HSET', meta, 'epoch', epoch, 'base', text(first - 1))
      add()
    end
    -- The first entry of a stream takes 4 kB, most of them for later ones; of a user's order there are few.
    if newborn and #packet < 1024 then
      local copy = redis.pcall('DUMP', stream)
      if type(copy) == 'string' then redis.pcall('RESTORE', stream, 0, copy, 'REPLACE') end
    end
    redis.call('ZADD', seen, unpack(new))
    if seq > window then redis.call('ZREMRANGEBYSCORE', seen, '-inf', seq - window) end
    while total - low > bytes do
      local entry = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
      local after = tonumber(string.match(entry[2][2], '^%S+ %d+ %d+ %S+ %S+ (%d+)'))
      low = after - #entry[2][2]
      if total - low <= bytes or after == total then break end
      redis.call('XDEL', stream, entry[1])
    end
    note('seq', text(seq), 'tag', tag, 'total', text(total), 'low', text(low))
    if entries then write_state(meta, entries, held) end
    redis.call(arg.tell, stream, packet)
  end
  answer = plain and epoch .. ' ' .. text(first) or epoch .. ' =' .. table.concat(places, ',')
  note(mine, text(batch) .. ' ' .. text(now) .. ' ' .. answer)
  local touch = not m[6] or now - m[6] > age / 8
  if touch then note('touched', text(now)) end
  redis.call('HSET', meta, unpack(fields))
  -- A writer new to this channel is the moment to forget those that are gone.
  if not known_writer and not newborn then forget_writers(meta) end
  if touch then
    redis.call('PEXPIRE', meta, text(math.max(arg.forget, age * 1.25)))
    redis.call('PEXPIRE', stream, text(age * 1.25))
    redis.call('PEXPIRE', seen, text(age * 1.25))
  end
  return answer, total - low
end

local answers, kept, at = {}, {}, 2
for number, channel in ipairs(arg.channels) do
  local c = 3 * number - 2
  local good, answer, bytes = pcall(publish, KEYS[c], KEYS[c + 1], KEYS[c + 2], channel, at)
  answers[number] = good and answer or '!' .. reason(answer)
  kept[number] = good and bytes or 0
  at = at + 2 * channel[6]
end
return {answers, kept}
