"""What is done inside Redis, in one step each: the Lua scripts and the shape of what they keep.

A channel is three keys with one hash tag, so that a cluster keeps them together:

``t:{channel}``    the stream; one entry is one packet, its id is ``<last seq of the packet>-0``
``t:{channel}:m``  a hash: ``epoch``, ``base`` (the seq at which that epoch began), ``seq``, ``tag`` (of
                   the last packet), and for each writer ``w:<writer>``: its last batch and the answer to it
``t:{channel}:i``  a sorted set: message id → seq, to recognise what is published twice

A packet is the same text in the stream and in pub/sub: a head line, then a JSON array of events.
The head is ``epoch first count tag prev total``: the events are numbered from ``first``; ``tag`` names
this packet and ``prev`` the one before it; ``total`` is the bytes of all packets of this order so far.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

__all__ = ["CAST", "CHECK", "NO_TAG", "PUBLISH", "READ", "Script"]

NO_TAG: Final = "-"
"""What stands for the tag of a packet that never was: the one before the first of an epoch."""


@dataclass(frozen=True)
class Script:
    """One Lua script, called by its hash."""

    source: str
    sha: bytes = field(init=False)

    def __post_init__(self) -> None:
        # EVALSHA names scripts by their SHA-1; nothing here is a secret.
        digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest.encode())


_BEGIN: Final = """
local function begin(stream, meta, seen, epoch)
  -- Nothing is known of this order: whatever is left of an older one does not belong to it.
  redis.call('DEL', stream, seen)
  redis.call('HSET', meta, 'epoch', epoch, 'base', 0, 'seq', 0, 'tag', '-', 'total', 0)
end
"""

PUBLISH: Final = Script(
    _BEGIN
    + """
-- KEYS: stream, meta, seen of each channel.
-- ARGV: writer, epoch for new orders, PUBLISH or SPUBLISH, ms after which an unused order is forgotten; then
--       for each channel: events kept, bytes kept, ms kept, ids kept, number of the batch, count, and count
--       times: message id, event as JSON.
-- Returns for each channel "epoch first", or "epoch =place,place,..." when some were there already.
local writer, newborn, tell, forget = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local mine = 'w:' .. writer
local text = function(number) return string.format('%.0f', number) end
local answers, at = {}, 5

for c = 1, #KEYS, 3 do
  local stream, meta, seen = KEYS[c], KEYS[c + 1], KEYS[c + 2]
  local keep, bytes, age = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local window = tonumber(ARGV[at + 3])
  local batch, count = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  at = at + 6
  local m = redis.call('HMGET', meta,
    'epoch', 'seq', 'tag', 'total', 'low', 'touched', 'mark', 'marked', mine)
  if not m[1] then
    begin(stream, meta, seen, newborn)
    m = {newborn, 0, '-', 0, false, false, false, false, false}
  end
  local epoch, seq, prev, total = m[1], tonumber(m[2]), m[3], tonumber(m[4])

  local earlier, answer
  if m[9] then
    local number, said = string.match(m[9], '^(%d+) %d+ (.*)$')
    earlier, answer = tonumber(number), said
  else
    -- A writer new to this channel is the moment to forget those that are gone.
    local all = redis.call('HGETALL', meta)
    for i = 1, #all, 2 do
      local used = string.sub(all[i], 1, 2) == 'w:' and tonumber(string.match(all[i + 1], '^%d+ (%d+)'))
      if used and now - used > 600000 then redis.call('HDEL', meta, all[i]) end
    end
  end

  -- A batch comes twice when its writer lost the connection and could not know.
  if not earlier or batch > earlier then
    local mids, places, parts, new, here, twice = {}, {}, {}, {}, {}, false
    for i = 1, count do mids[i] = ARGV[at + 2 * i - 2] end
    local known = redis.call('ZMSCORE', seen, unpack(mids))
    local first = seq + 1
    for i = 1, count do
      local place = here[mids[i]] or (known[i] and tonumber(known[i]))
      if place then
        twice = true
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
      local tag = writer .. '.' .. text(batch)
      local low = tonumber(m[5] or 0)
      total = total + #body
      -- Events before the last mark but one are older than the age.
      local oldest = math.max(seq - keep, 0)
      if not m[8] or now - m[8] >= age then
        oldest = math.max(oldest, tonumber(m[7] or 0))
        redis.call('HSET', meta, 'mark', text(first - 1), 'marked', text(now))
      end
      local packet
      local function add()
        packet = table.concat({epoch, text(first), #parts, tag, prev, text(total)}, ' ') .. '\\n' .. body
        local id = redis.pcall('XADD', stream, 'MINID', '~', text(oldest + 1), text(seq) .. '-0', 'p', packet)
        return type(id) == 'table' and id.err
      end
      local failed = add()
      if failed and not string.find(failed, 'equal or smaller', 1, true) then
        return redis.error_reply(failed)
      elseif failed then
        -- The stream is ahead of the rest (a backup that came back in parts, say): it is another history.
        redis.call('DEL', stream)
        epoch, prev, low = newborn, '-', total - #body
        redis.call('HSET', meta, 'epoch', epoch, 'base', text(first - 1))
        add()
      end
      redis.call('ZADD', seen, unpack(new))
      redis.call('ZREMRANGEBYSCORE', seen, '-inf', seq - window)
      while total - low > bytes do
        local entry = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
        local after = tonumber(string.match(entry[2][2], '^%S+ %d+ %d+ %S+ %S+ (%d+)'))
        low = after - #entry[2][2]
        if total - low <= bytes or after == total then break end
        redis.call('XDEL', stream, entry[1])
      end
      redis.call('HSET', meta,
        'seq', text(seq), 'tag', tag, 'total', text(total), 'low', text(low))
      redis.call(tell, stream, packet)
    end
    answer = twice and epoch .. ' =' .. table.concat(places, ',') or epoch .. ' ' .. text(first)
    redis.call('HSET', meta, mine, text(batch) .. ' ' .. text(now) .. ' ' .. answer)
    if not m[6] or now - m[6] > age / 8 then
      redis.call('HSET', meta, 'touched', text(now))
      redis.call('PEXPIRE', meta, forget)
      redis.call('PEXPIRE', stream, text(age * 1.25))
      redis.call('PEXPIRE', seen, text(age * 1.25))
    end
  end
  at = at + 2 * count
  answers[#answers + 1] = answer
end
return answers
"""
)

CHECK: Final = Script(
    _BEGIN
    + """
-- KEYS: stream, meta, seen of each channel. ARGV: epoch for new orders, PUBLISH or SPUBLISH, ms after which
-- an unused order is forgotten; then for each channel: epoch, seq and tag of the last packet that the
-- caller knows, or three empty texts.
-- Returns for each channel epoch, base, seq, tag. When Redis no longer has what the caller knows (it lost
-- data: a fail-over to a replica that was behind, a crash), the order gets a new epoch, and all are told.
local newborn, tell, forget = ARGV[1], ARGV[2], ARGV[3]
local found, at = {}, 4
for c = 1, #KEYS, 3 do
  local stream, meta, seen = KEYS[c], KEYS[c + 1], KEYS[c + 2]
  local epoch, seq, tag = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2]
  at = at + 3
  local m = redis.call('HMGET', meta, 'epoch', 'base', 'seq', 'tag')
  if not m[1] then
    begin(stream, meta, seen, newborn)
    m = {newborn, '0', '0', '-'}
  elseif epoch == m[1] then
    local last = tonumber(m[3])
    local gone = last < seq or (last == seq and m[4] ~= tag)
    if last > seq then
      local entry = redis.call('XRANGE', stream, seq, '+', 'COUNT', 1)[1]
      if entry then
        local first, count, this, prev = string.match(entry[2][2], '^%S+ (%d+) (%d+) (%S+) (%S+)')
        first = tonumber(first)
        if first == seq + 1 then
          gone = prev ~= tag
        elseif first + count - 1 == seq then
          gone = this ~= tag
        else
          gone = first <= seq
        end
      end
    end
    if gone then
      redis.call('HSET', meta, 'epoch', newborn, 'base', m[3], 'tag', '-')
      redis.call(tell, stream, newborn .. ' ' .. string.format('%.0f', last + 1) .. ' 0 - - 0\\n[]')
      m = {newborn, m[3], m[3], '-'}
    end
  end
  redis.call('PEXPIRE', meta, forget)
  found[#found + 1] = {m[1], m[2], m[3], m[4]}
end
return found
"""
)

READ: Final = Script(
    _BEGIN
    + """
-- KEYS: stream, meta, seen. ARGV: epoch for a new order, ms after which it is forgotten, number of packets,
-- then an epoch and a seq: packets after that are wanted; when it is not of this order, those of the last
-- so many events (the next ARGV).
-- Returns epoch, base, seq, tag and the packets.
local stream, meta, seen = KEYS[1], KEYS[2], KEYS[3]
local m = redis.call('HMGET', meta, 'epoch', 'base', 'seq', 'tag')
if not m[1] then
  begin(stream, meta, seen, ARGV[1])
  redis.call('PEXPIRE', meta, ARGV[2])
  m = {ARGV[1], '0', '0', '-'}
end
local packets = {}
if ARGV[3] ~= '0' then
  local last, after = tonumber(m[3]), tonumber(ARGV[5])
  if ARGV[4] ~= m[1] or after > last then after = math.max(last - tonumber(ARGV[6]), 0) end
  local entries = redis.call('XRANGE', stream, string.format('%.0f', after + 1), '+', 'COUNT', ARGV[3])
  for i = 1, #entries do packets[i] = entries[i][2][2] end
end
return {m[1], m[2], m[3], m[4], packets}
"""
)

CAST: Final = Script(
    """
-- KEYS: streams of channels. ARGV: PUBLISH or SPUBLISH, then what to tell each channel. Keeps nothing.
for c = 1, #KEYS do redis.call(ARGV[1], KEYS[c], ARGV[c + 1]) end
return #KEYS
"""
)
