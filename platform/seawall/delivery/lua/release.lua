-- Lets parked messages go: to their old place, or spread over time by a rate.
-- KEYS: base. ARGV: dependency, most to release now, us between two of them (0 = all at once), how many
-- were released before this call. Returns how many were released.
local base, dependency = KEYS[1], ARGV[1]
local gap, before = tonumber(ARGV[3]), tonumber(ARGV[4])
local popped = unpark_some(base, dependency, ARGV[2])
for i = 1, #popped, 2 do
  if gap > 0 then
    local due = NOW + gap * (before + (i - 1) / 2) - (before > 0 and 1 or 0)
    redis.call('ZADD', base .. ':delayed', digits(due), popped[i])
  else
    line_up(base, popped[i], digits(popped[i + 1]))
  end
end
if #popped > 0 then
  wake(base)
end
used(base)
return #popped / 2
