-- Holders that are known to be dead: their shares are free at once. ARGV: holders.
redis.call('ZREM', HOLDERS, unpack(ARGV))
