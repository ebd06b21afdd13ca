-- Puts dead letters back at the end of the line with a clean history; the old one is kept as their lineage.
-- KEYS: base. ARGV: ids. Returns how many there were.
local base, revived = KEYS[1], 0
local LINEAGE_KEPT = 60

local function bequeath(id)
  local lineage = cjson.decode(redis.call('HGET', base .. ':lineage', id) or '[]')
  local past = redis.call('HGET', base .. ':history', id)
  for _, event in ipairs(past and cjson.decode(past).events or {}) do
    table.insert(lineage, event)
  end
  table.insert(lineage, { NOW / 1000000, 'operator', 'requeued' })
  while #lineage > LINEAGE_KEPT do
    table.remove(lineage, 1)
  end
  redis.call('HSET', base .. ':lineage', id, cjson.encode(lineage))
  redis.call('HDEL', base .. ':history', id)
  redis.call('HDEL', base .. ':since', id)
end

for _, id in ipairs(ARGV) do
  if redis.call('ZREM', base .. ':dead', id) == 1 then
    bequeath(id)
    line_up(base, id, digits(level_of(id) * LEVEL + places(base, 1)))
    revived = revived + 1
  end
end
if revived > 0 then
  wake(base)
end
used(base)
return revived
