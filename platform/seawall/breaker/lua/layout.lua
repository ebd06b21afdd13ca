-- The state of a circuit that the fleet shares. This text is put in front of each verb before it is loaded;
-- it does what machine.py does, in the same order, by the server's clock.
--
-- `root` is "seawall:{breakers}": one hash tag, because one version stands for all circuits. All times are
-- microseconds of the server's clock; what leaves a script are seconds that remain or have passed.
--
--   root:version          string  grows with every transition of any circuit; processes poll this one key
--   root:names            zset    circuits by the moment they were last read or changed
--   root:rules            hash    circuit -> its rules, as its users gave them last
--   root:changes          channel a snapshot for each transition; {"name", "hot_left", "hot_every"} for the
--                                 first failure after a calm time
--   root:<n>:state        hash    the fields of `fresh` below, and hot_until
--   root:<n>:window       hash    <bucket>c, <bucket>f, <bucket>s: calls, failures, slow calls
--   root:<n>:reporters    zset    "host/pid" by its last report
--   root:<n>:troubled     zset    those whose last word was trouble
--   root:<n>:leases       zset    probes by the end of their lease
--   root:<n>:held         hash    "host/pid@machine", a process that refuses calls by itself -> since, until
--
-- KEYS: root. ARGV: name, rules (JSON, seconds), who asks, the newest snapshot they know (JSON, or ''), then
-- what the verb needs.
local BUCKETS = 10
local SUCCESS_WEIGHT = 2
local NOISE_WEIGHT = 2
local HALF_OPEN_LEASES = 3
local HOT_FOR = 1000000
local HOT_EVERY = 20000
local REPORTS_A_SECOND = 2000
local DAY = 86400

local ROOT = KEYS[1]
local NAME, RULES, ASKER = ARGV[1], cjson.decode(ARGV[2]), ARGV[3]
local BASE = ROOT .. ':' .. NAME
local STATE, WINDOW, LEASES = BASE .. ':state', BASE .. ':window', BASE .. ':leases'
local REPORTERS, TROUBLED = BASE .. ':reporters', BASE .. ':troubled'

local time = redis.call('TIME')
local NOW = time[1] * 1000000 + time[2]

local function digits(number)
  return string.format('%.0f', number)
end

local function micros(seconds)
  return math.floor(seconds * 1000000 + 0.5)
end

local NUMBERS = { epoch = 0, since = 0, ['until'] = 0, trips = 0, open_time = 0, ramping = 0, score = 0,
  succeeded = 0, calls = 0, failed = 0, slow = 0, reporters = 0, hot_until = 0 }
local TEXTS = { state = 'closed', cause = 'new', reason = '', author = '', by = '' }

local function fresh()
  local circuit = {}
  for field, value in pairs(NUMBERS) do
    circuit[field] = value
  end
  for field, value in pairs(TEXTS) do
    circuit[field] = value
  end
  return circuit
end

-- A server that lost its memory, or lags behind as a new primary, learns from whoever knows a newer epoch.
local function restore(circuit, known)
  if known == '' then
    return false
  end
  known = cjson.decode(known)
  if tonumber(known.epoch) <= circuit.epoch then
    return false
  end
  for field in pairs(TEXTS) do
    circuit[field] = known[field] or ''
  end
  circuit.epoch, circuit.trips = tonumber(known.epoch), known.trips
  circuit.since = NOW - micros(known.passed)
  circuit['until'] = known.left and NOW + micros(known.left) or 0
  circuit.open_time, circuit.ramping = micros(known.open_time), known.ramping and 1 or 0
  return true
end

local function load()
  local circuit, stored = fresh(), redis.call('HGETALL', STATE)
  for i = 1, #stored, 2 do
    local field = stored[i]
    circuit[field] = NUMBERS[field] and tonumber(stored[i + 1]) or stored[i + 1]
  end
  circuit.changed = restore(circuit, ARGV[4])
  return circuit
end

local function free(circuit)
  redis.call('ZREMRANGEBYSCORE', LEASES, '-inf', digits(NOW))
  return RULES.probes - circuit.succeeded - redis.call('ZCARD', LEASES)
end

local function hot_every()
  return math.max(HOT_EVERY, redis.call('ZCARD', REPORTERS) * 1000000 / REPORTS_A_SECOND)
end

local function snapshot(circuit)
  local known = {
    name = NAME, state = circuit.state, cause = circuit.cause, reason = circuit.reason,
    author = circuit.author, epoch = digits(circuit.epoch), trips = circuit.trips,
    passed = (NOW - circuit.since) / 1000000, open_time = circuit.open_time / 1000000,
    ramping = circuit.ramping == 1, ramp_for = RULES.ramp_for, calls = circuit.calls, failed = circuit.failed,
    slow = circuit.slow, reporters = circuit.reporters, by = circuit.by,
    version = tonumber(redis.call('GET', ROOT .. ':version') or 0), free = 0,
    hot_left = math.max(0, circuit.hot_until - NOW) / 1000000, hot_every = hot_every() / 1000000,
  }
  if circuit['until'] > 0 then
    known.left = math.max(0, circuit['until'] - NOW) / 1000000
  end
  if circuit.state == 'half_open' then
    known.free = free(circuit)
    local first = redis.call('ZRANGE', LEASES, 0, 0, 'WITHSCORES')
    known.left = first[2] and math.max(0, first[2] - NOW) / 1000000 or 0
  end
  return cjson.encode(known)
end

-- A forced state without an end is kept by the processes, which read each circuit once an hour.
local function expire(key, seconds)
  redis.call('EXPIRE', key, digits(math.ceil(seconds)))
end

local function write(circuit)
  local fields = {}
  for field in pairs(NUMBERS) do
    table.insert(fields, field)
    table.insert(fields, digits(circuit[field]))
  end
  for field in pairs(TEXTS) do
    table.insert(fields, field)
    table.insert(fields, circuit[field])
  end
  redis.call('HSET', STATE, unpack(fields))
  expire(STATE, 30 * DAY)
end

-- Writes the state; a transition is published. Returns the snapshot.
local function save(circuit)
  if circuit.changed then
    redis.call('INCR', ROOT .. ':version')
    expire(ROOT .. ':version', 365 * DAY)
  end
  write(circuit)
  local known = snapshot(circuit)
  if circuit.changed then
    redis.call('ZADD', ROOT .. ':names', digits(NOW), NAME)
    expire(ROOT .. ':names', 30 * DAY)
    redis.call('PUBLISH', ROOT .. ':changes', known)
  end
  return known
end

-- The window's calls, failures and slow calls; forgets what is older.
local function count(circuit)
  local oldest = math.floor(NOW / (micros(RULES.window) / BUCKETS)) - BUCKETS + 1
  local sums, old, held = { c = 0, f = 0, s = 0 }, {}, redis.call('HGETALL', WINDOW)
  for i = 1, #held, 2 do
    local bucket, kind = tonumber(string.sub(held[i], 1, -2)), string.sub(held[i], -1)
    if bucket < oldest then
      table.insert(old, held[i])
    else
      sums[kind] = sums[kind] + held[i + 1]
    end
  end
  if #old > 0 then
    redis.call('HDEL', WINDOW, unpack(old))
  end
  circuit.calls, circuit.failed, circuit.slow = sums.c, sums.f, sums.s
end

-- Transitions

-- The one place where the state changes.
local function go(circuit, state, cause, ending)
  circuit.ramping = 0
  if state == 'closed' and (cause == 'probes succeeded'
      or cause == 'force ended' and circuit.state == 'forced_open') then
    circuit.ramping = 1
  end
  circuit.state, circuit.cause, circuit.since, circuit['until'] = state, cause, NOW, ending or 0
  circuit.reason, circuit.author, circuit.by = '', '', ASKER
  circuit.epoch = math.max(circuit.epoch + 1, NOW)
  circuit.score, circuit.succeeded, circuit.changed = 0, 0, true
  redis.call('DEL', WINDOW, LEASES, TROUBLED)
end

local function open(circuit, cause)
  local again = circuit.state == 'half_open'
    or NOW - circuit.since < circuit.open_time + micros(RULES.ramp_for)
  circuit.trips = again and circuit.trips > 0 and circuit.trips + 1 or 1
  circuit.open_time = micros(math.min(RULES.max_open_for, RULES.open_for * 2 ^ math.min(circuit.trips - 1, 32)))
  go(circuit, 'open', cause, NOW + circuit.open_time)
end

-- What time alone changes.
local function refresh(circuit)
  if (circuit.state == 'forced_open' or circuit.state == 'forced_closed')
      and circuit['until'] > 0 and NOW >= circuit['until'] then
    go(circuit, 'closed', 'force ended')
  elseif circuit.state == 'half_open'
      and NOW - circuit.since >= HALF_OPEN_LEASES * micros(RULES.probe_for) then
    open(circuit, 'probes lost')
  end
end
