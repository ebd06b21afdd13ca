-- KEYS: base. ARGV: process, want, held, budget (0: as remembered), lease in us, label.
-- Answers {grant, fair share, budget}; {-1, 0, 0} if nobody has said the budget. Mirrored in governor.py.
local base, process = KEYS[1], ARGV[1]
local want, held, budget = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if budget > 0 then
  redis.call('SET', base .. ':budget', budget, 'EX', 60)
else
  budget = tonumber(redis.call('GET', base .. ':budget') or '0')
  if budget == 0 then
    return { -1, 0, 0 }
  end
end

local found = leases(base)
found[process] = { held = held, grant = 0, want = want }
local order, taken = {}, 0
for id, lease in pairs(found) do
  table.insert(order, id)
  if id ~= process then
    taken = taken + math.max(lease.held, lease.grant)
  end
end
table.sort(order, function(one, other)
  if found[one].want == found[other].want then
    return one < other
  end
  return found[one].want < found[other].want
end)

-- Modest wishes are met in full; the others share the rest evenly.
local left, fair = budget, 0
for place, id in ipairs(order) do
  local share = math.min(found[id].want, math.floor(left / (#order - place + 1)))
  left = left - share
  if id == process then
    fair = share
  end
end

local grant = math.max(0, math.min(fair, budget - taken))
local expiry = NOW + tonumber(ARGV[5])
local lease = string.format('%d %d %d %.0f %s', held, grant, want, expiry, ARGV[6])
redis.call('HSET', base .. ':leases', process, lease)
redis.call('PEXPIRE', base .. ':leases', 3600000)
return { grant, fair, budget }
