-- Stores results and tells those who wait for them.
-- KEYS: one for each result. ARGV: 1 to replace what is stored already, then for each result the seconds it is
-- kept for (0 = for ever) and the result.
-- Returns for each what is stored there already, and was left alone, or nil.
local found = {}
for i, key in ipairs(KEYS) do
  local seconds, result = tonumber(ARGV[2 * i]), ARGV[2 * i + 1]
  local stored = ARGV[1] ~= '1' and redis.call('GET', key)
  if not stored then
    if seconds > 0 then
      redis.call('SETEX', key, seconds, result)
    else
      redis.call('SET', key, result)
    end
    redis.call('PUBLISH', key, result)
  end
  found[i] = stored
end
return found
