-- Say that a worker lives. KEYS: root. ARGV: name, what it says of itself, microseconds for which that counts, and the
-- digest of the task names that it knows, if it says so.
-- Returns 1 if the list of these names has to be written down, else 0.
local root, name, body, lasts = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
redis.call('SET', root .. ':beat:' .. name, body, 'PX', math.floor(lasts / 1000))
redis.call('ZADD', root .. ':names', string.format('%.0f', now + lasts), name)
redis.call('ZREMRANGEBYSCORE', root .. ':names', '-inf', string.format('%.0f', now))
redis.call('PEXPIRE', root .. ':names', math.floor(lasts / 1000))
if not ARGV[4] then
  return 0
end
return 1 - redis.call('PEXPIRE', root .. ':known:' .. ARGV[4], math.floor(lasts / 1000))
