-- Puts dead letters back at the end of the line with a clean history.
-- KEYS: base. ARGV: ids. Returns how many there were.
local base, revived = KEYS[1], 0
for _, id in ipairs(ARGV) do
  if redis.call('ZREM', base .. ':dead', id) == 1 then
    redis.call('HDEL', base .. ':history', id)
    line_up(base, id, digits(level_of(id) * LEVEL + places(base, 1)))
    revived = revived + 1
  end
end
if revived > 0 then
  wake(base)
end
return revived
