-- The connection budget of one PostgreSQL server. This text is put in front of each verb.
--
-- `base` is "seawall:connections:{<host>:<port>}". All times are microseconds of the server's clock.
--
--   base:leases  hash    process -> "held grant want expiry label": how many connections it has open, may have
--                        and could use, when its lease ends, and who it is
--   base:budget  string  what all may hold together, as last said by a process; forgotten after a minute
local time = redis.call('TIME')
local NOW = time[1] * 1000000 + time[2]

local function parse(lease)
  local held, grant, want, expiry, label = string.match(lease, '^(%d+) (%d+) (%d+) (%d+) ?(.*)$')
  return { held = tonumber(held), grant = tonumber(grant), want = tonumber(want), expiry = tonumber(expiry),
           label = label }
end

-- Every lease by process; those that ended are removed.
local function leases(base)
  local found, all = {}, redis.call('HGETALL', base .. ':leases')
  for i = 1, #all, 2 do
    local lease = parse(all[i + 1])
    if lease.expiry > NOW then
      found[all[i]] = lease
    else
      redis.call('HDEL', base .. ':leases', all[i])
    end
  end
  return found
end
