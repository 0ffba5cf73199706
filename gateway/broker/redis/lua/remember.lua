-- KEYS: values, deadlines and sizes of one organisation's notes. ARGV[1]: MessagePack of RememberCall (scripts.py); ARGV[2]: the value.
-- Keeps the value under the name; when all take more than ``share`` bytes the oldest go.
local arg = cmsgpack.unpack(ARGV[1])
local value = ARGV[2]
local values, deadlines, counts = unpack(KEYS)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function drop(name)
  local size = redis.call('HSTRLEN', values, name)
  if redis.call('HDEL', values, name) == 1 then
    redis.call('HINCRBY', counts, 'bytes', -(size + #name + arg.note_bytes))
  end
  redis.call('ZREM', deadlines, name)
end

local size = #value + #arg.name + arg.note_bytes
if size > arg.share then return 0 end
-- Needs memory, so that a server that is full refuses before anything is dropped.
local held = redis.call('HINCRBY', counts, 'bytes', 0)
drop(arg.name)
for _, each in ipairs(redis.call('ZRANGEBYSCORE', deadlines, '-inf', now, 'LIMIT', 0, 100)) do drop(each) end
held = tonumber(redis.call('HGET', counts, 'bytes'))
while held + size > arg.share do
  local oldest = redis.call('ZRANGE', deadlines, 0, 0)[1]
  if not oldest then break end
  drop(oldest)
  held = tonumber(redis.call('HGET', counts, 'bytes'))
end
redis.call('HSET', values, arg.name, value)
redis.call('ZADD', deadlines, string.format('%.0f', now + arg.ttl), arg.name)
redis.call('HINCRBY', counts, 'bytes', size)
for _, key in ipairs(KEYS) do
  if redis.call('PTTL', key) < arg.ttl then redis.call('PEXPIRE', key, arg.ttl) end
end
return 1
