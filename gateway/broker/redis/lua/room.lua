-- KEYS[1]: the stream of a channel. Refused with OOM while the server is full; changes nothing in any case
-- (an empty text at place 0 of a stream is refused for its type, and of nothing makes nothing).
local answer = redis.pcall('SETRANGE', KEYS[1], 0, '')
if type(answer) == 'table' and string.find(answer.err, 'OOM', 1, true) then return answer end
return 0
