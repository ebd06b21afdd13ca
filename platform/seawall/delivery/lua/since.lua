-- For how long a message has been asked about, in microseconds: 0 for the first time in its life.
-- KEYS: base. ARGV: id.
local base, id = KEYS[1], ARGV[1]
if redis.call('HSETNX', base .. ':since', id, digits(NOW)) == 1 then
  return 0
end
return NOW - tonumber(redis.call('HGET', base .. ':since', id))
