-- Nobody waits for a key any more, unless somebody was refused a moment ago. ARGV: key, its mark, us.
local since = tonumber(string.match(ARGV[2], '%d+$'))
if NOW - since > tonumber(ARGV[3]) and redis.call('HGET', WANTED, ARGV[1]) == ARGV[2] then
  redis.call('HDEL', WANTED, ARGV[1])
end
