-- KEYS: sizes and deadlines of the channels of one organisation. ARGV[1]: MessagePack of AccountCall (scripts.py).
-- Takes down what channels keep now and until when, and forgets those whose time is over.
-- Returns bytes and number of all that are known.
local arg = cmsgpack.unpack(ARGV[1])
local sizes, deadlines = unpack(KEYS)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local bytes = tonumber(redis.call('HGET', sizes, '') or 0)
for _, each in ipairs(arg.channels) do
  local name, size, age = unpack(each)
  bytes = bytes + size - tonumber(redis.call('HGET', sizes, name) or 0)
  redis.call('HSET', sizes, name, size)
  redis.call('ZADD', deadlines, string.format('%.0f', now + age), name)
end
for _, each in ipairs(redis.call('ZRANGEBYSCORE', deadlines, '-inf', now, 'LIMIT', 0, 1000)) do
  bytes = bytes - tonumber(redis.call('HGET', sizes, each) or 0)
  redis.call('HDEL', sizes, each)
  redis.call('ZREM', deadlines, each)
end
local count = redis.call('ZCARD', deadlines)
if count == 0 then
  redis.call('DEL', sizes)
  return {0, 0}
end
redis.call('HSET', sizes, '', string.format('%.0f', bytes))
local last = tonumber(redis.call('ZRANGE', deadlines, -1, -1, 'WITHSCORES')[2])
for _, key in ipairs(KEYS) do redis.call('PEXPIREAT', key, string.format('%.0f', last + 1000)) end
return {bytes, count}
