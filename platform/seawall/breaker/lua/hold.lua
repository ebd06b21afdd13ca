-- A process holds its own circuit open, whatever the fleet's is. ARGV[5..7]: "host/pid@machine", seconds since,
-- seconds left (0: it does so no more). Each entry ends with its time, so nobody has to take it away.
local HELD = BASE .. ':held'
local holder, passed, left = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
if left > 0 then
  redis.call('HSET', HELD, holder, digits(NOW - micros(passed)) .. ' ' .. digits(NOW + micros(left)))
else
  redis.call('HDEL', HELD, holder)
end
local held, latest = redis.call('HGETALL', HELD), 0
for i = 1, #held, 2 do
  local ends = tonumber(string.match(held[i + 1], '%d+$'))
  if ends <= NOW then
    redis.call('HDEL', HELD, held[i])
  else
    latest = math.max(latest, ends)
  end
end
if latest > 0 then
  expire(HELD, (latest - NOW) / 1000000)
end
return #held / 2
