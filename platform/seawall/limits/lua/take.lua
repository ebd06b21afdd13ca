-- Takes a share if one is free. ARGV: key, how many there are, holder, number of the share, us of lease.
-- Returns 0, or us after which it makes sense to ask again.
local key, holder, lease = ARGV[1], ARGV[3], tonumber(ARGV[5])
local shares = tonumber(ARGV[2])
renew(holder, lease)
if redis.call('SCARD', shares_of(key)) >= shares then
  local left, first = take_back(key)
  if left >= shares then
    redis.call('HSET', WANTED, key, shares .. ' ' .. digits(NOW))
    redis.call('EXPIRE', WANTED, SHARES_KEPT)
    return digits(math.max(1, math.min(lease, first - NOW)))
  end
end
redis.call('SADD', shares_of(key), holder .. '/' .. ARGV[4])
redis.call('EXPIRE', shares_of(key), SHARES_KEPT)
return '0'
