-- KEYS: values and deadlines of one organisation's notes. ARGV: name. Returns what is kept, if its time is not over.
local until_then = redis.call('ZSCORE', KEYS[2], ARGV[1])
local time = redis.call('TIME')
if not until_then or tonumber(until_then) <= time[1] * 1000 + math.floor(time[2] / 1000) then return false end
return redis.call('HGET', KEYS[1], ARGV[1])
