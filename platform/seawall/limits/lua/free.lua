-- Of the keys that somebody waits for, some of those that have shares free. ARGV: most keys to look at.
-- Returns {key, shares free, its mark, ...}.
local found, looked_at = {}, redis.call('HRANDFIELD', WANTED, ARGV[1], 'WITHVALUES')
for i = 1, #looked_at, 2 do
  local key, mark = looked_at[i], looked_at[i + 1]
  local free = tonumber(string.match(mark, '^%d+')) - take_back(key)
  if free > 0 then
    for _, value in ipairs({ key, free, mark }) do
      table.insert(found, value)
    end
  end
end
return found
