-- The layout every verb works on. This text is put in front of each verb before it is loaded.
--
-- A message id is its level (one digit, 9 - priority) followed by a unique string, so that any key that
-- holds ids can put a message back in line without reading it. `base` is "<prefix>seawall:{<queue>}": one
-- hash tag per queue. All times are microseconds of the server's clock.
--
--   base:messages    hash    id -> the message as submitted
--   base:ready       zset    id by level * 2^49 + place; the lowest goes first. A place is the moment (us
--                            since 2025) a message joined the line, one more than the last one's at least:
--                            exact priority, first come first served within it, and an age for free
--   base:last        string  the place given last
--   base:delayed     zset    id by the moment it becomes due
--   base:consumers   zset    consumer by the moment its lease ends
--   base:held:<c>    hash    id -> score to return to; a leading "+" says the task has started
--   base:history     hash    id -> {"strikes": n, "events": [[seconds, consumer, reason], ...]}, present
--                            once a message came back from a lost worker or was rejected by its task
--   base:dead        zset    id by the moment it was given up
--   base:lineage     hash    id -> [[seconds, consumer, reason], ...]: the history of the lives before this one,
--                            present once it was put back in line as a dead letter
--   base:parked      set     dependencies with something parked
--   base:parked:<d>  zset    id by score to return to
--   base:unpark      zset    id, line feed, dependency by the moment at which it is parked no longer; an entry
--                            whose message was released before means nothing
--   base:unique:<k>  string  id of the submission that owns the key, for as long as it is unique
--   base:paused      string  present while claims get nothing from this queue
--   base:wake        list    at most one token; idle consumers block on it. A token says "look again" and
--                            carries nothing, so a lost one costs a moment and never a message
--   base:turn        string  claims counted, to give every n-th to the oldest message (ageing)
local FIRST = 1735689600000000
local LEVEL = 562949953421312
local EVENTS_KEPT = 20

local time = redis.call('TIME')
local NOW = time[1] * 1000000 + time[2]

local function digits(number)
  return string.format('%.0f', number)
end

local function level_of(id)
  return tonumber(string.sub(id, 1, 1))
end

local function wake(base)
  if redis.call('EXISTS', base .. ':wake') == 0 then
    redis.call('LPUSH', base .. ':wake', '1')
  end
end

-- Reserves `count` places at the end of the line and returns the first.
local function places(base, count)
  local last = tonumber(redis.call('GET', base .. ':last') or '0')
  local place = math.max(NOW - FIRST, last + 1)
  redis.call('SET', base .. ':last', digits(place + count - 1))
  return place
end

local function line_up(base, id, score)
  redis.call('ZADD', base .. ':ready', score, id)
end

-- Takes away up to `most` of what is parked for `dependency`. Returns each id and the score to return to.
local function unpark_some(base, dependency, most)
  local parked = base .. ':parked:' .. dependency
  local popped = redis.call('ZPOPMIN', parked, most)
  if redis.call('EXISTS', parked) == 0 then
    redis.call('SREM', base .. ':parked', dependency)
  end
  return popped
end

-- Removes `id` from what `consumer` holds. Returns the score to return to and whether it had started, or
-- nil if the consumer does not hold it: then somebody else decided about it already.
local function let_go(base, consumer, id)
  local held = base .. ':held:' .. consumer
  local mark = redis.call('HGET', held, id)
  if not mark then
    return nil
  end
  redis.call('HDEL', held, id)
  local started = string.sub(mark, 1, 1) == '+'
  return started and string.sub(mark, 2) or mark, started
end

-- Adds one event to a message's history and returns its strikes.
local function remember(base, id, consumer, reason, strikes)
  local known = redis.call('HGET', base .. ':history', id)
  local history = known and cjson.decode(known) or { strikes = 0, events = {} }
  history.strikes = history.strikes + strikes
  table.insert(history.events, { NOW / 1000000, consumer, reason })
  if #history.events > EVENTS_KEPT then
    table.remove(history.events, 1)
  end
  redis.call('HSET', base .. ':history', id, cjson.encode(history))
  return history.strikes
end

-- Charges a started message for a lost process: back in its place, or to the dead letters at the limit.
local function strike(base, id, score, consumer, reason, limit, dead)
  if redis.call('HEXISTS', base .. ':messages', id) == 0 then
    return
  end
  if remember(base, id, consumer, reason, 1) >= limit then
    redis.call('ZADD', base .. ':dead', digits(NOW), id)
    table.insert(dead, id)
  else
    line_up(base, id, score)
  end
end

-- Takes everything back from a consumer that is gone. Only what had started is charged; the rest is
-- remembered, so that its next start is written down before it runs (see claimant.py).
local function take_back(base, consumer, limit, dead)
  local held = redis.call('HGETALL', base .. ':held:' .. consumer)
  for i = 1, #held, 2 do
    local id, mark = held[i], held[i + 1]
    if string.sub(mark, 1, 1) == '+' then
      strike(base, id, string.sub(mark, 2), consumer, 'worker lost', limit, dead)
    elseif redis.call('HEXISTS', base .. ':messages', id) == 1 then
      remember(base, id, consumer, 'worker lost before the start', 0)
      line_up(base, id, mark)
    end
  end
  redis.call('DEL', base .. ':held:' .. consumer)
  redis.call('ZREM', base .. ':consumers', consumer)
  if #held > 0 then
    wake(base)
  end
end

-- Done with: idempotent, and it cancels a copy that was restored while the task still ran.
local function acknowledge(base, consumer, ids)
  if #ids == 0 then
    return
  end
  if redis.call('HDEL', base .. ':held:' .. consumer, unpack(ids)) < #ids then
    redis.call('ZREM', base .. ':ready', unpack(ids))
  end
  redis.call('HDEL', base .. ':messages', unpack(ids))
  for _, name in ipairs({ ':history', ':lineage' }) do
    if redis.call('EXISTS', base .. name) == 1 then
      redis.call('HDEL', base .. name, unpack(ids))
    end
  end
end

local settle_one = {
  -- started: from now on a lost process is charged to this message
  s = function(base, consumer, id)
    local held = base .. ':held:' .. consumer
    local mark = redis.call('HGET', held, id)
    if mark and string.sub(mark, 1, 1) ~= '+' then
      redis.call('HSET', held, id, '+' .. mark)
    end
  end,
  -- returned: back to its old place; a reason is remembered, and makes the next delivery a repeated one
  r = function(base, consumer, id, reason)
    local score = let_go(base, consumer, id)
    if score then
      if (reason or '') ~= '' and redis.call('HEXISTS', base .. ':messages', id) == 1 then
        remember(base, id, consumer, reason, 0)
      end
      line_up(base, id, score)
      wake(base)
    end
  end,
  -- struck: the process that ran it died
  k = function(base, consumer, id, reason, limit, dead)
    local score = let_go(base, consumer, id)
    if score then
      strike(base, id, score, consumer, reason, limit, dead)
      wake(base)
    end
  end,
  -- deferred: back in line after so many microseconds, at no cost
  d = function(base, consumer, id, delay)
    if let_go(base, consumer, id) then
      redis.call('ZADD', base .. ':delayed', digits(NOW + tonumber(delay)), id)
      wake(base)
    end
  end,
  -- buried: given up now, for a reason
  b = function(base, consumer, id, reason, limit, dead)
    if let_go(base, consumer, id) then
      remember(base, id, consumer, reason, 0)
      redis.call('ZADD', base .. ':dead', digits(NOW), id)
    end
  end,
  -- parked: aside until its dependency is released, or for so many microseconds if that is given
  p = function(base, consumer, id, detail)
    local score = let_go(base, consumer, id)
    if score then
      local feed = string.find(detail, '\n', 1, true)
      local dependency = feed and string.sub(detail, 1, feed - 1) or detail
      if feed then
        local until_then = digits(NOW + tonumber(string.sub(detail, feed + 1)))
        redis.call('ZADD', base .. ':unpark', until_then, id .. '\n' .. dependency)
      end
      redis.call('SADD', base .. ':parked', dependency)
      redis.call('ZADD', base .. ':parked:' .. dependency, score, id)
    end
  end,
  -- let go: so many of those parked for a dependency, which stands in the place of the id
  l = function(base, _, dependency, most)
    local popped = unpark_some(base, dependency, most)
    for i = 1, #popped, 2 do
      line_up(base, popped[i], digits(popped[i + 1]))
    end
    if #popped > 0 then
      wake(base)
    end
  end,
}

-- Applies settlements: each is a kind, an id and, after a line feed, what the kind needs.
local function settle(base, consumer, settlements, limit, dead)
  local done = {}
  for _, settlement in ipairs(settlements) do
    local kind, rest = string.sub(settlement, 1, 1), string.sub(settlement, 2)
    if kind == 'a' then
      table.insert(done, rest)
      if #done == 1000 then
        acknowledge(base, consumer, done)
        done = {}
      end
    else
      local feed = string.find(rest, '\n', 1, true)
      local id = feed and string.sub(rest, 1, feed - 1) or rest
      settle_one[kind](base, consumer, id, feed and string.sub(rest, feed + 1) or '', limit, dead)
    end
  end
  acknowledge(base, consumer, done)
end
