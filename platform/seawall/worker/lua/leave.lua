-- Forget a worker that has ended. ARGV: name.
redis.call('DEL', root .. ':beat:' .. ARGV[1])
redis.call('ZREM', root .. ':names', ARGV[1])
