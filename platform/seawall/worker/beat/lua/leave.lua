-- Gives the lease of a schedule up. ARGV: name, token, host and pid, mark of the last send that has ended.
local name, lease = ARGV[1], key('lease', ARGV[1])
redis.call('ZREM', key('waiting', name), ARGV[3])
if redis.call('HGET', lease, 'holder') == ARGV[2] then
  report_sent(name, ARGV[4])
  redis.call('HDEL', lease, 'holder', 'who', 'ends')
  redis.call('ZREM', ROOT .. ':names', name)
end
