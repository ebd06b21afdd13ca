-- What a queue holds, by where it is. KEYS: base.
-- Returns {ready, delayed, held, dead, paused, us the head of the line has waited (-1 = nobody),
--          {dependency, parked, ...}}.
local base, held, parked = KEYS[1], 0, {}
for _, consumer in ipairs(redis.call('ZRANGE', base .. ':consumers', 0, -1)) do
  held = held + redis.call('HLEN', base .. ':held:' .. consumer)
end
for _, dependency in ipairs(redis.call('SMEMBERS', base .. ':parked')) do
  table.insert(parked, dependency)
  table.insert(parked, redis.call('ZCARD', base .. ':parked:' .. dependency))
end
local head = redis.call('ZRANGE', base .. ':ready', 0, 0, 'WITHSCORES')
local suspect = redis.call('ZRANGE', base .. ':suspects', 0, 0, 'WITHSCORES')
if suspect[1] and (not head[1] or tonumber(suspect[2]) < tonumber(head[2])) then
  head = suspect
end
local waited = head[1] and NOW - FIRST - (tonumber(head[2]) - level_of(head[1]) * LEVEL) or -1
return {
  redis.call('ZCARD', base .. ':ready') + redis.call('ZCARD', base .. ':suspects'),
  redis.call('ZCARD', base .. ':delayed'), held,
  redis.call('ZCARD', base .. ':dead'), redis.call('EXISTS', base .. ':paused'), waited, parked,
}
