-- Removes messages that wait, in line or for their moment. What is held, parked or dead stays.
-- KEYS: base. ARGV: most to remove in this call, the stock transport's list from which claims import ('' = they do
-- not), which goes at once. Returns how many were removed.
local base, removed = KEYS[1], 0
for _, name in ipairs({ ':ready', ':suspects', ':delayed' }) do
  local left = tonumber(ARGV[1]) - removed
  local popped = left > 0 and redis.call('ZPOPMIN', base .. name, left) or {}
  local ids = {}
  for i = 1, #popped, 2 do
    table.insert(ids, popped[i])
  end
  if #ids > 0 then
    redis.call('HDEL', base .. ':messages', unpack(ids))
    redis.call('HDEL', base .. ':history', unpack(ids))
    redis.call('HDEL', base .. ':lineage', unpack(ids))
    redis.call('HDEL', base .. ':since', unpack(ids))
    redis.call('SREM', base .. ':aside', unpack(ids))
  end
  removed = removed + #ids
end
for _, step in ipairs(ARGV[2] ~= '' and STOCK_STEPS or {}) do
  local left = left_in(ARGV[2] .. step)
  if left > 0 then
    redis.call('UNLINK', ARGV[2] .. step)
    removed = removed + left
  end
end
return removed
