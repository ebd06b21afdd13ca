-- A consumer leaves in good order: settle, give everything back to its old place, no charge.
-- KEYS: base. ARGV: consumer, delivery limit, settlements.
-- Returns the ids that became dead letters.
local base, consumer, dead, settlements = KEYS[1], ARGV[1], {}, {}
for i = 3, #ARGV do
  table.insert(settlements, ARGV[i])
end
settle(base, consumer, settlements, tonumber(ARGV[2]), dead)
for _, id in ipairs(redis.call('HKEYS', base .. ':held:' .. consumer)) do
  settle_one.r(base, consumer, id)
end
redis.call('ZREM', base .. ':consumers', consumer)
if redis.call('EXISTS', base .. ':ready', base .. ':suspects') > 0 then
  wake(base)
end
used(base)
return dead
