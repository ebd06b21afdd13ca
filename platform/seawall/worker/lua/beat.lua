-- Say that a worker lives. ARGV: name, what it says of itself, microseconds for which that counts.
local name, body, lasts = ARGV[1], ARGV[2], tonumber(ARGV[3])
local at = now()
redis.call('SET', root .. ':beat:' .. name, body, 'PX', math.floor(lasts / 1000))
redis.call('ZADD', root .. ':names', string.format('%.0f', at + lasts), name)
redis.call('ZREMRANGEBYSCORE', root .. ':names', '-inf', string.format('%.0f', at))
redis.call('PEXPIRE', root .. ':names', math.floor(lasts / 1000))
