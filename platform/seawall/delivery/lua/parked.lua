-- What is parked, by what it waits for. KEYS: base.
-- Returns {dependency, how many, us since the oldest of them joined the line, ...}.
local base, found = KEYS[1], {}
for _, dependency in ipairs(redis.call('SMEMBERS', base .. ':parked')) do
  local parked, first = base .. ':parked:' .. dependency, NOW - FIRST
  for level = 0, 9 do
    local head = redis.call('ZRANGEBYSCORE', parked, digits(level * LEVEL), '(' .. digits((level + 1) * LEVEL),
      'WITHSCORES', 'LIMIT', 0, 1)
    first = math.min(first, head[2] and head[2] - level * LEVEL or first)
  end
  table.insert(found, dependency)
  table.insert(found, redis.call('ZCARD', parked))
  table.insert(found, NOW - FIRST - first)
end
return found
