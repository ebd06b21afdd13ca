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
--   base:suspects    zset    as `ready`, for those in line that are suspects (below); a claim takes one of them
--                            at most
--   base:alone:<id>  string  the worker that takes nothing new so that this suspect may run alone there; it
--                            lasts for a lease, and claims of that worker renew it
--   base:last        string  the place given last
--   base:delayed     zset    id by the moment it becomes due
--   base:consumers   zset    consumer by the moment its lease ends
--   base:held:<c>    hash    id -> score to return to; a leading "+" says the task has started, a leading "=" that it
--                            was gathered and does not begin while a suspect is to run alone
--   base:history     hash    id -> {"strikes": n, "events": [[seconds, consumer, reason], ...], "lost": n,
--                            "suspect": true}, present once a message came back from a lost worker or was
--                            rejected by its task. "lost" counts workers lost before its start was on record;
--                            "suspect" is present while it is one
--   base:dead        zset    id by the moment it was given up
--   base:lineage     hash    id -> [[seconds, consumer, reason], ...]: the history of the lives before this one,
--                            present once it was put back in line as a dead letter
--   base:parked      set     dependencies with something parked
--   base:parked:<d>  zset    id by score to return to
--   base:unpark      zset    id, line feed, dependency by the moment at which it is parked no longer; an entry
--                            whose message was released before means nothing
--   base:aside       set     id of those that were parked or deferred, until they are claimed again: monitors
--                            are told both
--   base:since       hash    id -> the moment at which somebody asked first for how long it waits (since.lua)
--   base:unique:<k>  string  id of the submission that owns the key, for as long as it is unique
--   base:submitted:<w>  set  first ids of the batches that were submitted in the 20 s numbered w; it expires 40 s
--                            after its first one
--   base:paused      string  present while claims get nothing from this queue
--   base:wake        list    at most one token; idle consumers block on it. A token says "look again" and
--                            carries nothing, so a lost one costs a moment and never a message
--   base:turn        string  claims counted, to give every n-th to the oldest message (ageing)
--   base:expires     string  ms without use (a submission, a consumer) after which the queue goes with all it holds,
--                            where its declaration says so (x-expires), and where nobody declared it, as with a
--                            reply whose asker is gone. All keys of such a queue expire
--
-- Outside any queue, `<prefix>seawall:aboard:<worker>` says which suspect a worker has, or waits for:
-- base, consumer, id and one word (see below), a line each.
--
-- Who a consumer is: its name ends with ":<worker>.<process>.<serial>". Worker and process are random tokens,
-- so two workers of one host name, or two processes of one pid, are never taken for each other. What stands
-- before them is for people.
--
-- Who is charged. A process that dies while its worker lives is known by its worker, which charges the one
-- message that ran there ("k"). When a whole worker is lost, nobody knows which message did it:
--
--   1. What had started there becomes a suspect and is not charged, and so does what was lost often enough
--      before its start was on record.
--   2. A worker has one suspect at most, claimed or running. All else runs beside it. If the worker is lost,
--      the suspect is charged, whether its start is on record or not: that is a strike.
--   3. At its last strike but one a suspect runs alone, so that nobody else can be blamed on it. The worker
--      that is to run it takes nothing new until it is empty (one word: "drains"), then takes the suspect
--      and nothing beside it ("alone"); other workers go on. An empty worker takes it without waiting. What
--      the worker has in its hands and has not begun goes back; what was gathered is marked and waits.
--   4. To end clears: what was acknowledged is forgotten, what was deferred or parked after its start is no
--      suspect any more, nor is one that its consumer still runs (reconcile.lua).
--
-- So an innocent is charged `delivery_limit` - 1 times at most, and a killer of workers is a dead letter after
-- `delivery_limit` + 1 runs, and `delivery_limit` - 2 more if none of its first starts came on record.
local FIRST = 1735689600000000
local LEVEL = 562949953421312
local EVENTS_KEPT = 20
local STOCK_STEPS = { '', '\6\0223', '\6\0226', '\6\0229' } -- what ends the names of the stock transport's lists
local ABOARD_FOR = 86400000 -- ms without a claim after which a worker's suspect is forgotten
local REMEMBERED_FOR = 20000 -- ms for which a submission is known at least: twice as long as a producer tries

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

-- Every key of a queue, but those that expire by themselves in any case.
local function keys_of(base)
  local keys = {}
  for _, name in ipairs({ 'messages', 'ready', 'suspects', 'last', 'delayed', 'consumers', 'history', 'lineage', 'dead',
    'parked', 'since', 'unpark', 'aside', 'paused', 'wake', 'turn', 'expires' }) do
    table.insert(keys, base .. ':' .. name)
  end
  for _, consumer in ipairs(redis.call('ZRANGE', base .. ':consumers', 0, -1)) do
    table.insert(keys, base .. ':held:' .. consumer)
  end
  for _, dependency in ipairs(redis.call('SMEMBERS', base .. ':parked')) do
    table.insert(keys, base .. ':parked:' .. dependency)
  end
  return keys
end

-- Those that hold what was submitted lately, the present one first; all that have not expired by themselves.
local function submitted_of(base)
  local keys, window = {}, math.floor(NOW / (REMEMBERED_FOR * 1000))
  for back = 0, 2 do
    table.insert(keys, base .. ':submitted:' .. digits(window - back))
  end
  return keys
end

-- A queue that goes when nobody uses it is used. Every verb that may make a key of one ends with this.
local function used(base)
  local lasts = redis.call('GET', base .. ':expires')
  if lasts then
    local lease = redis.call('ZREVRANGE', base .. ':consumers', 0, 0, 'WITHSCORES')
    lasts = digits(lasts + math.max(lease[2] and (lease[2] - NOW) / 1000 or 0, 0))
    for _, key in ipairs(keys_of(base)) do
      redis.call('PEXPIRE', key, lasts)
    end
    for _, key in ipairs(submitted_of(base)) do
      if redis.call('PTTL', key) > tonumber(lasts) then
        redis.call('PEXPIRE', key, lasts)
      end
    end
  end
end

-- How many messages stock publishers left in a list, whose name may be anything else's too.
local function left_in(list)
  local many = redis.pcall('LLEN', list)
  return type(many) == 'number' and many or 0
end

-- Reserves `count` places at the end of the line and returns the first.
local function places(base, count)
  local last = tonumber(redis.call('GET', base .. ':last') or '0')
  local place = math.max(NOW - FIRST, last + 1)
  redis.call('SET', base .. ':last', digits(place + count - 1))
  return place
end

local function history_of(base, id)
  local known = redis.call('HGET', base .. ':history', id)
  return known and cjson.decode(known) or { strikes = 0, events = {} }
end

local function is_suspect(base, id)
  local known = redis.call('HGET', base .. ':history', id)
  return known and string.find(known, '"suspect":true', 1, true)
end

-- Its run has ended, or goes on, in a worker that lives.
local function absolve(base, id)
  if is_suspect(base, id) then
    local history = history_of(base, id)
    history.suspect, history.lost = nil, nil
    redis.call('HSET', base .. ':history', id, cjson.encode(history))
  end
end

local function line_up(base, id, score)
  redis.call('ZADD', base .. (is_suspect(base, id) and ':suspects' or ':ready'), score, id)
end

-- The worker to which a consumer belongs.
local function worker_of(consumer)
  return string.match(consumer, ':([^:.]+)%.[^:.]+%.[^:.]+$') or consumer
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

-- What stands for a message among those that a consumer holds: the score to return to, and whether it had started.
local function read_mark(mark)
  local first = string.sub(mark, 1, 1)
  return (first == '+' or first == '=') and string.sub(mark, 2) or mark, first == '+'
end

-- Which suspect the worker has whose note this is: "beside", "alone", "drains", or nil for none.
local function look_aboard(key, worker)
  local noted = redis.call('GET', key)
  if not noted then
    return nil
  end
  local base, holder, id, word = string.match(noted, '^(.*)\n(.*)\n(.*)\n(.*)$')
  local valid
  if word == 'drains' then
    valid = redis.call('ZSCORE', base .. ':suspects', id)
      and redis.call('GET', base .. ':alone:' .. id) == worker
  else
    valid = redis.call('HEXISTS', base .. ':held:' .. holder, id) == 1
  end
  if not valid then
    redis.call('DEL', key)
    return nil
  end
  redis.call('PEXPIRE', key, ABOARD_FOR)
  return word
end

-- What a process of that worker is told of it: nothing may be taken there.
local HELD_BACK = { alone = 2, drains = 3 }

-- Removes `id` from what `consumer` holds. Returns the score to return to and whether it had started, or
-- nil if the consumer does not hold it: then somebody else decided about it already.
local function let_go(base, consumer, id)
  local held = base .. ':held:' .. consumer
  local mark = redis.call('HGET', held, id)
  if not mark then
    return nil
  end
  redis.call('HDEL', held, id)
  return read_mark(mark)
end

-- Adds one event to a message's history and returns its strikes. `note` may change the history.
local function remember(base, id, consumer, reason, strikes, note)
  local history = history_of(base, id)
  history.strikes = history.strikes + strikes
  if note then
    note(history)
  end
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

-- Takes one message back from a consumer that is gone with its worker: only a suspect is charged.
local function take_one_back(base, consumer, id, mark, limit, dead)
  local score, started = read_mark(mark)
  if is_suspect(base, id) then
    strike(base, id, score, consumer, 'worker lost', limit, dead)
  elseif redis.call('HEXISTS', base .. ':messages', id) == 1 then
    local reason = started and 'worker lost' or 'worker lost before the start'
    remember(base, id, consumer, reason, 0, function(history)
      history.lost = (history.lost or 0) + (started and 0 or 1)
      history.suspect = history.suspect or started or history.lost >= math.max(limit - 1, 1) or nil
    end)
    line_up(base, id, score)
  end
end

-- Takes everything back from a consumer that is gone.
local function take_back(base, consumer, limit, dead)
  local held = redis.call('HGETALL', base .. ':held:' .. consumer)
  for i = 1, #held, 2 do
    take_one_back(base, consumer, held[i], held[i + 1], limit, dead)
  end
  redis.call('DEL', base .. ':held:' .. consumer)
  redis.call('ZREM', base .. ':consumers', consumer)
  if #held > 0 then
    wake(base)
  end
end

-- Done with: idempotent, and it cancels a copy that was restored, or given up, while the task still ran.
local function acknowledge(base, consumer, ids)
  if #ids == 0 then
    return
  end
  if redis.call('HDEL', base .. ':held:' .. consumer, unpack(ids)) < #ids then
    for _, line in ipairs({ ':ready', ':suspects', ':dead' }) do
      redis.call('ZREM', base .. line, unpack(ids))
    end
  end
  redis.call('HDEL', base .. ':messages', unpack(ids))
  if redis.call('EXISTS', base .. ':suspects', base .. ':history', base .. ':lineage', base .. ':since') == 0 then
    return
  end
  if redis.call('EXISTS', base .. ':suspects') == 1 then
    wake(base) -- the next one may have its turn
  end
  for _, name in ipairs({ ':history', ':lineage', ':since' }) do
    redis.call('HDEL', base .. name, unpack(ids))
  end
end

local settle_one = {
  -- started: from now on a lost process is charged to this message
  s = function(base, consumer, id)
    local held = base .. ':held:' .. consumer
    local mark = redis.call('HGET', held, id)
    if mark then
      redis.call('HSET', held, id, '+' .. read_mark(mark))
    end
  end,
  -- gathered: it does not begin while a suspect is to run alone in its worker
  g = function(base, consumer, id)
    local held = base .. ':held:' .. consumer
    local mark = redis.call('HGET', held, id)
    if mark and string.sub(mark, 1, 1) ~= '+' then
      redis.call('HSET', held, id, '=' .. read_mark(mark))
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
    local score, started = let_go(base, consumer, id)
    if score then
      if started then
        absolve(base, id)
      end
      redis.call('ZADD', base .. ':delayed', digits(NOW + tonumber(delay)), id)
      redis.call('SADD', base .. ':aside', id)
      wake(base)
    end
  end,
  -- delayed: it was taken in before its moment, which comes in so many microseconds
  t = function(base, consumer, id, delay)
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
    local score, started = let_go(base, consumer, id)
    if score then
      if started then
        absolve(base, id)
      end
      local feed = string.find(detail, '\n', 1, true)
      local dependency = feed and string.sub(detail, 1, feed - 1) or detail
      if feed then
        local until_then = digits(NOW + tonumber(string.sub(detail, feed + 1)))
        redis.call('ZADD', base .. ':unpark', until_then, id .. '\n' .. dependency)
      end
      redis.call('SADD', base .. ':parked', dependency)
      redis.call('SADD', base .. ':aside', id)
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
