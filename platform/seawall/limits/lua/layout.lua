-- Shares of limits, cluster-wide. This text is put in front of each verb before it is loaded.
--
-- A holder is a process; it has one lease, renewed in one step however many shares it holds. `root` is
-- "seawall:{limits}". All times are microseconds of the server's clock.
--
--   root:holders   zset  "host:pid:serial" by the moment its lease ends
--   root:shares:<key>    set   "holder/number": one member for each share
--   root:wanted    hash  key of which somebody found no share free -> "<how many there are> <when that was>"
--
-- KEYS: root.
local SHARES_KEPT = 30 * 86400

local ROOT = KEYS[1]
local HOLDERS = ROOT .. ':holders'
local WANTED = ROOT .. ':wanted'

local time = redis.call('TIME')
local NOW = time[1] * 1000000 + time[2]

local function digits(number)
  return string.format('%.0f', number)
end

local function shares_of(key)
  return ROOT .. ':shares:' .. key
end

local function renew(holder, lease)
  redis.call('ZADD', HOLDERS, digits(NOW + lease), holder)
  redis.call('EXPIRE', HOLDERS, SHARES_KEPT)
end

-- Takes back the shares of `key` whose holders are gone. Returns how many are left, and when the first of
-- their leases ends.
local function take_back(key)
  local left, first, shares = 0, math.huge, shares_of(key)
  for _, share in ipairs(redis.call('SMEMBERS', shares)) do
    local holder = string.match(share, '^(.*)/')
    local ends = tonumber(redis.call('ZSCORE', HOLDERS, holder) or 0)
    if ends > NOW then
      left, first = left + 1, math.min(first, ends)
    else
      redis.call('SREM', shares, share)
    end
  end
  return left, first
end
