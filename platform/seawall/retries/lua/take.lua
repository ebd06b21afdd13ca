-- KEYS: the hash. ARGV: first attempts to report, share in thousandths, retries that are always granted.
-- Grants one retry, or not: 1 or 0.
local key = KEYS[1]
redis.call('HINCRBY', key, slot .. ':f', ARGV[1])
redis.call('EXPIRE', key, SLOT * (SLOTS + 1))
local first, retries = 0, 0
local all = redis.call('HGETALL', key)
for i = 1, #all, 2 do
  local at, kind = string.match(all[i], '^(%d+):(%a)$')
  if tonumber(at) <= slot - SLOTS then
    redis.call('HDEL', key, all[i])
  elseif kind == 'f' then
    first = first + all[i + 1]
  else
    retries = retries + all[i + 1]
  end
end
if retries + 1 > tonumber(ARGV[3]) + first * ARGV[2] / 1000 then
  return 0
end
redis.call('HINCRBY', key, slot .. ':r', 1)
return 1
