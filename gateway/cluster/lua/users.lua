local function users(totals)
  return redis.call('HLEN', totals) - redis.call('HEXISTS', totals, 'v') - redis.call('HEXISTS', totals, 'w')
end
