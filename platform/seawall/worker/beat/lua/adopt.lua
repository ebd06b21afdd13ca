-- The last sends of a schedule's entries; one that has none yet has it from now on. ARGV: name, then for each
-- entry its name and the moment from which its beat counts. Returns entry, moment, entry, moment, ...
local sent = key('sent', ARGV[1])
for i = 2, #ARGV, 2 do
  redis.call('ZADD', sent, 'NX', ARGV[i + 1], ARGV[i])
end
redis.call('EXPIRE', sent, KEPT)
return redis.call('ZRANGE', sent, 0, -1, 'WITHSCORES')
