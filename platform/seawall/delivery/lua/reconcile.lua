-- Makes what a consumer is said to hold equal to what it knows it holds, and renews its lease.
-- KEYS: base. ARGV: consumer, lease (us), '1' while a claim of it may be under way, ids the consumer knows.
-- A lease whose claim's reply was lost goes back in line, unless that reply may still come. A message that was
-- restored, or given up, while the consumer was thought dead, and that nobody has taken since, is leased to it
-- again: it runs there still, or will.
-- Returns {leases given back, the ids leased again}.
local base, consumer, claiming = KEYS[1], ARGV[1], ARGV[3] == '1'
local known, held = {}, {}
redis.call('ZADD', base .. ':consumers', digits(NOW + tonumber(ARGV[2])), consumer)
for i = 4, #ARGV do
  known[ARGV[i]] = true
end
local leaked, taken = 0, {}
for _, id in ipairs(redis.call('HKEYS', base .. ':held:' .. consumer)) do
  held[id] = true
  if not known[id] and not claiming then
    settle_one.r(base, consumer, id)
    leaked = leaked + 1
  end
end
for id in pairs(known) do
  for _, line in ipairs(held[id] and {} or { ':ready', ':suspects', ':dead' }) do
    local score = redis.call('ZSCORE', base .. line, id)
    if score then
      redis.call('ZREM', base .. line, id)
      absolve(base, id)
      score = line == ':dead' and level_of(id) * LEVEL + NOW - FIRST or score
      redis.call('HSET', base .. ':held:' .. consumer, id, (claiming and '' or '+') .. digits(score))
      table.insert(taken, id)
    end
  end
end
used(base)
return { leaked, taken }
