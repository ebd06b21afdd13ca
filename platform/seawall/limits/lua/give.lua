-- Gives a share back. ARGV: key, holder, number of the share.
-- Returns whether somebody found none free a moment ago.
redis.call('SREM', ROOT .. ':' .. ARGV[1], ARGV[2] .. '/' .. ARGV[3])
return redis.call('EXISTS', ROOT .. ':' .. ARGV[1] .. ':wanted')
