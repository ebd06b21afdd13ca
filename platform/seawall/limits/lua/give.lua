-- Gives a share back. ARGV: key, holder, number of the share. Returns whether it was still held.
return redis.call('SREM', ROOT .. ':' .. ARGV[1], ARGV[2] .. '/' .. ARGV[3])
