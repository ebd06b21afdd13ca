-- Forgets dead letters for good. KEYS: base. ARGV: ids. Returns how many there were.
local base, discarded = KEYS[1], 0
for _, id in ipairs(ARGV) do
  if redis.call('ZREM', base .. ':dead', id) == 1 then
    redis.call('HDEL', base .. ':messages', id)
    redis.call('HDEL', base .. ':history', id)
    redis.call('HDEL', base .. ':lineage', id)
    redis.call('HDEL', base .. ':since', id)
    discarded = discarded + 1
  end
end
return discarded
