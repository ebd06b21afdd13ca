-- Puts on record that an entry is about to be sent. ARGV: name, token, us of lease, entry, moment by the clock
-- of its beat, mark of the send. Returns 1, or 0 if another beat has taken over: then nothing may be sent.
local name, sent = ARGV[1], key('sent', ARGV[1])
local lease = key('lease', name)
if redis.call('HGET', lease, 'holder') ~= ARGV[2] then
  return 0
end
redis.call('HSET', lease, 'entry', ARGV[4], 'id', ARGV[6])
redis.call('ZADD', sent, ARGV[5], ARGV[4])
redis.call('ZREMRANGEBYRANK', sent, 0, -ENTRIES_KEPT - 1)
renew(name, tonumber(ARGV[3]))
return 1
