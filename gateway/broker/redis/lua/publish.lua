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
local call, concat, format = redis.call, table.concat, string.format
local function text(number) return string.format('%.0f', number) end

local function forget_writers(meta)
  local all = redis.call('HGETALL', meta)
  for i = 1, #all, 2 do
    local used = string.sub(all[i], 1, 2) == 'w:' and tonumber(string.match(all[i + 1], '^%d+ (%d+)'))
    if used and now - used > 600000 then redis.call('HDEL', meta, all[i]) end
  end
end

-- The ids of a small order are in its hash, which is read and written anyway; those of a larger one are in the sorted
-- set, from which the oldest can be told.
local function move_ids(meta, seen, age)
  local all = call('HGETALL', meta)
  local ids, fields = {}, {'few'}
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 2) == 'i:' then
      ids[#ids + 1] = all[i + 1]
      ids[#ids + 1] = string.sub(all[i], 3)
      fields[#fields + 1] = all[i]
    end
  end
  if #ids > 0 then
    call('ZADD', seen, unpack(ids))
    call('PEXPIRE', seen, text(age * 1.25))
  end
  call('HDEL', meta, unpack(fields))
end

local function find_ids(meta, seen, mids, small)
  if not small then return call('ZMSCORE', seen, unpack(mids)) end
  local fields = {}
  for i, mid in ipairs(mids) do fields[i] = 'i:' .. mid end
  return call('HMGET', meta, unpack(fields))
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
  local keep, bytes, age, window, few, batch, count, effects = unpack(channel)
  local alone = count == 1 and few > 0
  local m
  if alone then
    m = call('HMGET', meta, 'epoch', 'seq', 'tag', 'total', 'low', 'touched', mine, 'few', 'i:' .. ARGV[at])
  else
    m = call('HMGET', meta, 'epoch', 'seq', 'tag', 'total', 'low', 'touched', mine, 'few')
  end
  local newborn = not m[1]
  if newborn then
    begin(stream, meta, seen, arg.newborn)
    m = {arg.newborn, 0, '-', 0, false, false, false, false, false}
  end
  local epoch, seq, prev, total = m[1], tonumber(m[2]), m[3], tonumber(m[4])
  local low, before = tonumber(m[5] or 0), m[5]
  local known_writer, earlier, answer = m[7], nil, nil
  if known_writer then
    local number, said = string.match(known_writer, '^(%d+) %d+ (.*)$')
    earlier, answer = tonumber(number), said
  end
  -- A batch comes twice when its writer lost the connection and could not know.
  if earlier and batch <= earlier then return answer, total - low end

  -- A release that knows no small orders leaves 'few' behind the number of the last event.
  local small = seq == 0 or tonumber(m[8]) == seq
  if m[8] and not (small and seq + count <= few) then move_ids(meta, seen, age) end
  small = small and seq + count <= few

  local mids, places, parts, new, here, plain = {}, {}, {}, {}, {}, true
  for i = 1, count do mids[i] = ARGV[at + 2 * i - 2] end
  local known = newborn and {} or small and alone and {m[9]} or find_ids(meta, seen, mids, small)
  local refused, entries, held = {}, nil, nil
  if effects then
    local taken = {}
    refused, entries, held = judge(meta, effects, tonumber(call('HGET', meta, 'state') or 0), function(number)
      local mid = mids[number]
      if known[number] or taken[mid] then return false end
      taken[mid] = true
      return true
    end)
  end
  local touch = not m[6] or now - m[6] > age / 8
  local first, fields, n = seq + 1, {}, 0
  for i = 1, count do
    local mid = mids[i]
    local place = here[mid] or (known[i] and tonumber(known[i]))
    if place then
      plain = false
    elseif refused[i] then
      plain = false
      place = 0
    else
      seq = seq + 1
      place = seq
      here[mid] = seq
      parts[#parts + 1] = ARGV[at + 2 * i - 1]
      if small then
        fields[n + 1], fields[n + 2] = 'i:' .. mid, seq
        n = n + 2
      else
        new[#new + 1] = seq
        new[#new + 1] = mid
      end
    end
    places[i] = place
  end
  if #parts > 0 then
    local body = '[' .. concat(parts, ',') .. ']'
    local tag = format('%s.%d', arg.writer, batch)
    total = total + #body
    -- Events before the last mark but one are older than the age.
    local oldest = math.max(seq - keep, 0)
    if touch then
      local mark, marked = unpack(call('HMGET', meta, 'mark', 'marked'))
      if not marked or now - marked >= age then
        oldest = math.max(oldest, tonumber(mark or 0))
        fields[n + 1], fields[n + 2], fields[n + 3], fields[n + 4] = 'mark', first - 1, 'marked', now
        n = n + 4
      end
    end
    local packet
    local function add()
      packet = format('%s %d %d %s %s %d\n%s', epoch, first, #parts, tag, prev, total, body)
      local id
      if oldest == 0 then
        id = redis.pcall('XADD', stream, format('%d-0', seq), 'p', packet, 'at', now)
      else
        id = redis.pcall('XADD', stream, 'MINID', '~', oldest + 1, format('%d-0', seq), 'p', packet, 'at', now)
      end
      return type(id) == 'table' and id.err
    end
    local failed = add()
    if failed and not string.find(failed, 'equal or smaller', 1, true) then
      error(failed, 0)
    elseif failed then
      -- The stream is ahead of the rest (a backup that came back in parts, say): it is another history.
      call('DEL', stream)
      epoch, prev, low = arg.newborn, '-', total - #body
      call('HSET', meta, 'epoch', epoch, 'base', first - 1)
      add()
    end
    -- The first entry of a stream takes 4 kB, most of them for later ones; of a user's order there are few.
    if newborn and #packet < 1024 then
      local copy = redis.pcall('DUMP', stream)
      if type(copy) == 'string' then redis.pcall('RESTORE', stream, 0, copy, 'REPLACE') end
    end
    if small then
      fields[n + 1], fields[n + 2] = 'few', seq
      n = n + 2
    else
      call('ZADD', seen, unpack(new))
      if seq > window then call('ZREMRANGEBYSCORE', seen, '-inf', seq - window) end
    end
    while total - low > bytes do
      local entry = call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
      local after = tonumber(string.match(entry[2][2], '^%S+ %d+ %d+ %S+ %S+ (%d+)'))
      low = after - #entry[2][2]
      if total - low <= bytes or after == total then break end
      call('XDEL', stream, entry[1])
    end
    fields[n + 1], fields[n + 2], fields[n + 3], fields[n + 4] = 'seq', seq, 'tag', tag
    fields[n + 5], fields[n + 6] = 'total', total
    n = n + 6
    if low ~= tonumber(before) then
      fields[n + 1], fields[n + 2] = 'low', low
      n = n + 2
    end
    if entries then write_state(meta, entries, held) end
    call(arg.tell, stream, packet)
  end
  answer = plain and format('%s %d', epoch, first) or epoch .. ' =' .. concat(places, ',')
  fields[n + 1], fields[n + 2] = mine, format('%d %d %s', batch, now, answer)
  if touch then fields[n + 3], fields[n + 4] = 'touched', now end
  call('HSET', meta, unpack(fields))
  -- A writer new to this channel is the moment to forget those that are gone.
  if not known_writer and not newborn then forget_writers(meta) end
  if touch then
    call('PEXPIRE', meta, text(math.max(arg.forget, age * 1.25)))
    call('PEXPIRE', stream, text(age * 1.25))
    if not small then call('PEXPIRE', seen, text(age * 1.25)) end
  end
  return answer, total - low
end

local answers, kept, at = {}, {}, 2
for number, channel in ipairs(arg.channels) do
  local c = 3 * number - 2
  local good, answer, bytes = pcall(publish, KEYS[c], KEYS[c + 1], KEYS[c + 2], channel, at)
  answers[number] = good and answer or '!' .. reason(answer)
  kept[number] = good and bytes or 0
  at = at + 2 * channel[7]
end
return {answers, kept}
