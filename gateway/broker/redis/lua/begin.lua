local function begin(stream, meta, seen, epoch)
  -- Nothing is known of this order: whatever is left of an older one does not belong to it.
  -- A server that is full refuses the first write of a script only if that may need memory, so DEL comes second.
  redis.call('HSET', meta, 'epoch', epoch, 'base', 0, 'seq', 0, 'tag', '-', 'total', 0)
  redis.call('DEL', stream, seen)
end

local function reason(problem)
  return type(problem) == 'table' and problem.err or tostring(problem)
end
