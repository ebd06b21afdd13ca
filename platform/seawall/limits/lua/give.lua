-- Gives a share back. ARGV: key, holder, number of the share.
-- Returns whether somebody found none free and waits perhaps; nobody waits that long without being refused again.
local FORGOTTEN_AFTER = 600 * 1000000
local key = ARGV[1]
redis.call('SREM', shares_of(key), ARGV[2] .. '/' .. ARGV[3])
local mark = redis.call('HGET', WANTED, key)
if mark and NOW - tonumber(string.match(mark, '%d+$')) > FORGOTTEN_AFTER and redis.call('EXISTS', shares_of(key)) == 0 then
  redis.call('HDEL', WANTED, key)
end
return mark and 1 or 0
