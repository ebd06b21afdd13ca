-- Tells a process where a circuit is, and learns from one that knows better. Returns the snapshot.
local circuit = load()
refresh(circuit)
redis.call('ZADD', ROOT .. ':names', digits(NOW), NAME)
redis.call('ZREMRANGEBYSCORE', ROOT .. ':names', '-inf', digits(NOW - 30 * DAY * 1000000))
redis.call('HSET', ROOT .. ':rules', NAME, ARGV[2])
expire(ROOT .. ':names', 30 * DAY)
expire(ROOT .. ':rules', 30 * DAY)
if redis.call('EXISTS', STATE) == 1 then
  expire(STATE, 30 * DAY)
end
return circuit.changed and save(circuit) or snapshot(circuit)
