-- What a queue holds, by where it is.
-- KEYS: base. ARGV: the stock transport's list from which claims import ('' = they do not); what is there is ready.
-- Returns {ready, delayed, held, dead, paused, us the head of the line has waited (-1 = nobody),
--          {dependency, parked, ...}}. What a consumer holds whose lease has ended is ready: the next who claims has it.
local base, held, parked = KEYS[1], 0, {}
local ready = redis.call('ZCARD', base .. ':ready') + redis.call('ZCARD', base .. ':suspects')
local leases = redis.call('ZRANGE', base .. ':consumers', 0, -1, 'WITHSCORES')
for i = 1, #leases, 2 do
  local many = redis.call('HLEN', base .. ':held:' .. leases[i])
  if tonumber(leases[i + 1]) > NOW then
    held = held + many
  else
    ready = ready + many
  end
end
for _, step in ipairs(ARGV[1] ~= '' and STOCK_STEPS or {}) do
  ready = ready + left_in(ARGV[1] .. step)
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
  ready, redis.call('ZCARD', base .. ':delayed'), held,
  redis.call('ZCARD', base .. ':dead'), redis.call('EXISTS', base .. ':paused'), waited, parked,
}
