-- Forget a worker that has ended. KEYS: root. ARGV: name.
redis.call('DEL', KEYS[1] .. ':beat:' .. ARGV[1])
redis.call('ZREM', KEYS[1] .. ':names', ARGV[1])
