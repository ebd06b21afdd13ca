-- Removes a queue with all it holds. KEYS: base. How long it lasts expires by itself: a claim that is under way makes
-- keys again.
local base = KEYS[1]
for _, key in ipairs(keys_of(base)) do
  if key ~= base .. ':expires' then
    redis.call('UNLINK', key)
  end
end
redis.call('UNLINK', unpack(submitted_of(base)))
return 1
