-- Takes or renews the lease of a schedule. ARGV: name, token, host and pid, us of lease, mark of the last
-- send that has ended. Returns {host and pid of the holder} if that is another beat. Otherwise {'', whether somebody
-- else held it before, entry and mark of what was begun and not reported as sent, both '' if there is nothing}.
local name, token, who, lasts = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local lease, waiting = key('lease', name), key('waiting', name)
local held = redis.call('HMGET', lease, 'holder', 'ends', 'who')
if held[1] and held[1] ~= token and tonumber(held[2]) > NOW then
  redis.call('ZADD', waiting, digits(NOW + lasts), who)
  redis.call('ZREMRANGEBYSCORE', waiting, '-inf', digits(NOW))
  redis.call('EXPIRE', waiting, KEPT)
  return { held[3] }
end
redis.call('HSET', lease, 'holder', token, 'who', who)
redis.call('ZREM', waiting, who)
renew(name, lasts)
report_sent(name, ARGV[5])
local begun = redis.call('HMGET', lease, 'entry', 'id')
return { '', held[1] == token and 0 or 1, begun[1] or '', begun[2] or '' }
