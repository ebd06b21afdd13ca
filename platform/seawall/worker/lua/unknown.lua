-- Which of some task names no living worker knows. KEYS: root. ARGV: names.
-- Returns their places (from 1); none while no worker lives, or one that lives does not say what it knows.
local root, lists, unknown = KEYS[1], {}, {}
for _, name in ipairs(redis.call('ZRANGE', root .. ':names', 0, -1)) do
  local beat = redis.call('GET', root .. ':beat:' .. name)
  if beat then
    local digest = cjson.decode(beat).names
    local list = type(digest) == 'string' and root .. ':known:' .. digest
    if not list or redis.call('EXISTS', list) == 0 then
      return {}
    end
    lists[list] = true
  end
end
if not next(lists) then
  return {}
end
for i, name in ipairs(ARGV) do
  local known = false
  for list in pairs(lists) do
    known = known or redis.call('SISMEMBER', list, name) == 1
  end
  if not known then
    table.insert(unknown, i)
  end
end
return unknown
