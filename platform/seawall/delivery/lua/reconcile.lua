-- Makes what a consumer is said to hold equal to what it knows it holds, and renews its lease.
-- KEYS: base. ARGV: consumer, lease (us), ids the consumer knows.
-- A lease whose claim's reply was lost goes back in line. A message that was restored while the consumer
-- was thought dead, and that nobody has taken since, is leased to it again: it still runs there.
-- Returns {leases given back, leases taken again}.
local base, consumer = KEYS[1], ARGV[1]
local known, held = {}, {}
redis.call('ZADD', base .. ':consumers', digits(NOW + tonumber(ARGV[2])), consumer)
for i = 3, #ARGV do
  known[ARGV[i]] = true
end
local leaked, taken = 0, 0
for _, id in ipairs(redis.call('HKEYS', base .. ':held:' .. consumer)) do
  held[id] = true
  if not known[id] then
    settle_one.r(base, consumer, id)
    leaked = leaked + 1
  end
end
for id in pairs(known) do
  local score = not held[id] and redis.call('ZSCORE', base .. ':ready', id)
  if score then
    redis.call('ZREM', base .. ':ready', id)
    redis.call('HSET', base .. ':held:' .. consumer, id, '+' .. digits(score))
    taken = taken + 1
  end
end
return { leaked, taken }
