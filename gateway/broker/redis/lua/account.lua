-- KEYS: sizes and deadlines of the channels of one organisation. ARGV[1]: MessagePack of AccountCall (scripts.py).
-- Takes down what channels keep now and until when, and forgets those whose time is over.
-- Returns bytes and number of all that are known.
local arg = cmsgpack.unpack(ARGV[1])
local sizes, deadlines = unpack(KEYS)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local bytes = tonumber(redis.call('HGET', sizes, '') or 0)
if #arg.channels > 0 then
  local names, fields, scores = {}, {}, {}
  for i, each in ipairs(arg.channels) do
    local name, size, age = unpack(each)
    names[i] = name
    fields[2 * i - 1], fields[2 * i] = name, size
    scores[2 * i - 1], scores[2 * i] = now + age, name
  end
  local before = redis.call('HMGET', sizes, unpack(names))
  for i, each in ipairs(arg.channels) do bytes = bytes + each[2] - (before[i] or 0) end
  redis.call('HSET', sizes, unpack(fields))
  redis.call('ZADD', deadlines, unpack(scores))
end
local over = redis.call('ZRANGEBYSCORE', deadlines, '-inf', now, 'LIMIT', 0, 1000)
if #over > 0 then
  for _, size in ipairs(redis.call('HMGET', sizes, unpack(over))) do bytes = bytes - (size or 0) end
  redis.call('HDEL', sizes, unpack(over))
  redis.call('ZREM', deadlines, unpack(over))
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
