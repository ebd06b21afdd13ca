-- Counts what processes saw, and trips the circuit if it is too much.
-- ARGV[5]: the epoch it was seen in. Then for each process: "host/pid", earlier successes (of unknown age),
-- successes, failures, slow calls. Returns a snapshot if the asker may not know it, else ''.
local circuit = load()
refresh(circuit)
local epoch = tonumber(ARGV[5])
if circuit.epoch == 0 then
  circuit.epoch, circuit.since = math.max(1, NOW), NOW
elseif epoch ~= circuit.epoch or circuit.changed then
  return circuit.changed and save(circuit) or snapshot(circuit)
end
if circuit.state ~= 'closed' then
  return ''
end

local bucket, window = digits(math.floor(NOW / (micros(RULES.window) / BUCKETS))), micros(RULES.window)
local sums, failures = { c = 0, f = 0, s = 0 }, false
for i = 6, #ARGV, 5 do
  local reporter, earlier, ok = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local failed, slow = tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4])
  sums.c, sums.f, sums.s = sums.c + earlier + ok + failed, sums.f + failed, sums.s + slow
  circuit.score = math.max(0, circuit.score - SUCCESS_WEIGHT * ok) + failed
  failures = failures or failed > 0 or (RULES.slow_rate > 0 and slow > 0)
  redis.call('ZADD', REPORTERS, digits(NOW), reporter)
  local calls = ok + failed
  if calls > 0 then
    if failed >= RULES.failure_rate * calls or RULES.slow_rate > 0 and slow >= RULES.slow_rate * calls then
      redis.call('ZADD', TROUBLED, digits(NOW), reporter)
    else
      redis.call('ZREM', TROUBLED, reporter)
    end
  end
end
for kind, sum in pairs(sums) do
  if sum > 0 then
    redis.call('HINCRBY', WINDOW, bucket .. kind, digits(sum))
  end
end
for _, key in ipairs({ WINDOW, REPORTERS, TROUBLED }) do
  expire(key, 2 * RULES.window + 1)
end
count(circuit)

local function trouble()
  if circuit.calls < RULES.min_calls then
    return nil
  elseif circuit.score >= math.floor(RULES.min_calls * (1 + NOISE_WEIGHT * circuit.failed / circuit.calls)) then
    return 'burst of failures'
  elseif circuit.failed >= RULES.failure_rate * circuit.calls then
    return 'failure rate'
  elseif RULES.slow_rate > 0 and circuit.slow >= RULES.slow_rate * circuit.calls then
    return 'slow rate'
  end
end

local function hosts(members)
  local seen, many = {}, 0
  for _, member in ipairs(members) do
    local host = string.match(member, '^[^/]*')
    if not seen[host] then
      seen[host], many = true, many + 1
    end
  end
  return many
end

local function quorate()
  local before = '(' .. digits(NOW - window)
  redis.call('ZREMRANGEBYSCORE', REPORTERS, '-inf', before)
  redis.call('ZREMRANGEBYSCORE', TROUBLED, '-inf', before)
  local troubled = redis.call('ZRANGE', TROUBLED, 0, -1)
  local many = #troubled
  if hosts(redis.call('ZRANGE', REPORTERS, 0, -1)) > 1 then
    many = hosts(troubled)
  end
  circuit.reporters = #troubled
  return many >= RULES.quorum
end

local cause = trouble()
if cause and quorate() then
  open(circuit, cause)
  return save(circuit)
end
-- From the first failure on everybody reports often, so that the fast detector sees the successes too.
local heard = circuit.hot_until - NOW
if failures and heard < HOT_FOR / 2 then
  circuit.hot_until = NOW + HOT_FOR
  redis.call('PUBLISH', ROOT .. ':changes', cjson.encode({
    name = NAME, hot_left = HOT_FOR / 1000000, hot_every = hot_every() / 1000000,
  }))
end
write(circuit)
return (epoch ~= circuit.epoch or circuit.hot_until > NOW and heard < HOT_FOR / 2) and snapshot(circuit) or ''
