-- Leases the next messages to a consumer, and carries its settlements: one round trip for both.
-- KEYS: the key that pauses every queue, the zset of revoked tasks, the suspect of this worker, then one base per queue
--       in the order to serve them.
-- ARGV: consumer, lease (us), delivery limit, how many, ageing (us in line after which the oldest message
--       may go first, 0 = never), share (every n-th claim goes to it), the level from which on messages stay
--       in line (10 = none does), then per queue: the stock transport's list to import from ('' = do not,
--       '-' = only settle here), number of settlements, the settlements.
-- Returns {us until something may change by itself (-1 = nothing known), 1 if more is ready, 2 if nothing may be
--          taken beside the suspect that runs alone in this worker, 3 if nothing may before one does, the server's
--          time (us),
--          per queue {{id, body, history or "", ...}, {ids that became dead letters}, {revoked task ids},
--          {ids that had been put aside}}}.
local consumer, lease, limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local wanted, ageing, share, below = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
-- A claim holds the server up for milliseconds at most; what remains is the next claim's.
local PROMOTED_AT_ONCE, ADOPTED_AT_ONCE, RESTORED_AT_ONCE = 500, 100, 10
local SUSPECTS_LOOKED_AT = 10
local BASE64_LOOKED_AT = 1024
local NORMAL = 5 -- Priority.NORMAL
local LOOK_AGAIN_AFTER = 250000 -- us, while nothing may be taken for the sake of a suspect

local first_base, worker, aboard, passed_over = 4, worker_of(consumer), nil, false

-- Everything out of the ordinary that a queue may have. Most have none of it most of the time: one question then
-- spares the claim one for each.
local special = {}
local function look_for_special(base)
  special[base] = redis.call('EXISTS', base .. ':paused', base .. ':delayed', base .. ':unpark', base .. ':suspects',
    base .. ':history', base .. ':aside', base .. ':expires') > 0
end

local function promote(base)
  local due = redis.call(
    'ZRANGEBYSCORE', base .. ':delayed', '-inf', digits(NOW), 'WITHSCORES', 'LIMIT', 0, PROMOTED_AT_ONCE)
  local ids, places_of = {}, {}
  for i = 1, #due, 2 do
    table.insert(ids, due[i])
    table.insert(places_of, digits(level_of(due[i]) * LEVEL + math.max(due[i + 1] - FIRST, 0)))
    table.insert(places_of, due[i])
  end
  if #ids > 0 then
    redis.call('ZREM', base .. ':delayed', unpack(ids))
    if redis.call('EXISTS', base .. ':history') == 0 then
      redis.call('ZADD', base .. ':ready', unpack(places_of))
      return
    end
    for i, id in ipairs(ids) do
      line_up(base, id, places_of[i * 2 - 1])
    end
  end
end

-- What has been parked for as long as it may is asked for again.
local function unpark(base)
  local due = redis.call('ZRANGEBYSCORE', base .. ':unpark', '-inf', digits(NOW), 'LIMIT', 0, PROMOTED_AT_ONCE)
  for _, entry in ipairs(due) do
    local feed = string.find(entry, '\n', 1, true)
    local id, parked = string.sub(entry, 1, feed - 1), base .. ':parked:' .. string.sub(entry, feed + 1)
    local score = redis.call('ZSCORE', parked, id)
    if score then
      redis.call('ZREM', parked, id)
      line_up(base, id, score)
      if redis.call('EXISTS', parked) == 0 then
        redis.call('SREM', base .. ':parked', string.sub(entry, feed + 1))
      end
    end
    redis.call('ZREM', base .. ':unpark', entry)
  end
end

local function restore(base, dead)
  local gone = redis.call('ZRANGEBYSCORE', base .. ':consumers', '-inf', digits(NOW), 'LIMIT', 0, RESTORED_AT_ONCE)
  for _, name in ipairs(gone) do
    take_back(base, name, limit, dead)
  end
end

-- The moment (us) of an ETA as ISO 8601 has it; nil if it is none, or does not say where its clock stands.
local function moment_of(eta)
  local year, month, day, hour, minute, second, rest = string.match(
    type(eta) == 'string' and eta or '', '^(%d%d%d%d)-(%d%d)-(%d%d)[T ](%d%d):(%d%d):(%d%d)(.*)$')
  if not year then
    return nil
  end
  local fraction = string.match(rest, '^%.%d+') or ''
  local zone = string.sub(rest, #fraction + 1)
  local sign, ahead_hours, ahead_minutes = string.match(zone == 'Z' and '+00:00' or zone, '^([+-])(%d%d):?(%d%d)$')
  if not sign or month - 1 > 11 or day - 0 > 31 or hour - 0 > 23 or minute - 0 > 59 then
    return nil -- whoever takes it says what is wrong with it
  end
  local ahead = (sign == '-' and -1 or 1) * (ahead_hours * 60 + ahead_minutes)
  -- Days since 1970: years begin with March here, so that the day that leap years have is the last one.
  month = month - 3
  year = month < 0 and year - 1 or year + 0
  month = month % 12
  local leaps = math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400)
  local days = 365 * year + leaps + math.floor((153 * month + 2) / 5) + day - 719469
  return (((days * 24 + hour) * 60 + minute - ahead) * 60 + second + (tonumber('0' .. fraction) or 0)) * 1000000
end

-- Messages of publishers that still use the stock transport: its four lists, most urgent first. It writes 0 where
-- nobody named a priority, and who names one reckons with 0 for all others: that is NORMAL here. What is not due yet
-- waits in the server, as it does when it is submitted to us: in a worker it would wait for its moment unstarted.
local function adopt(base, list)
  for _, step in ipairs(STOCK_STEPS) do
    for _ = 1, ADOPTED_AT_ONCE do
      local body = redis.pcall('RPOP', list .. step)
      if type(body) ~= 'string' then
        break
      end
      local known, message = pcall(cjson.decode, body)
      local read = known and type(message) == 'table' and type(message.properties) == 'table'
      local priority = read and tonumber(message.properties.priority) or 0
      if not (priority > 0) then -- nor is it NaN
        priority = NORMAL
      end
      local level = 9 - math.floor(math.min(9, priority))
      local place = places(base, 1)
      local id = level .. 'L' .. digits(place)
      redis.call('HSET', base .. ':messages', id, body)
      local due = read and type(message.headers) == 'table' and moment_of(message.headers.eta)
      if due and due > NOW then
        redis.call('ZADD', base .. ':delayed', digits(due), id)
        special[base] = true
      else
        line_up(base, id, digits(level * LEVEL + place))
      end
    end
  end
end

-- The oldest of the ten heads of the line, if it has waited long enough, whatever its priority.
local function oldest(base)
  local chosen, first
  for level = 0, 9 do
    local head = redis.call('ZRANGEBYSCORE', base .. ':ready', digits(level * LEVEL),
      '(' .. digits((level + 1) * LEVEL), 'WITHSCORES', 'LIMIT', 0, 1)
    if head[1] and (not first or head[2] - level * LEVEL < first) then
      chosen, first = head, head[2] - level * LEVEL
    end
  end
  if chosen and NOW - FIRST - first > ageing then
    redis.call('ZREM', base .. ':ready', chosen[1])
    return chosen
  end
end

local function pop(base, count)
  local popped = {}
  if redis.call('EXISTS', base .. ':ready') == 0 then
    return popped
  end
  if below < 10 then
    count = math.min(count, redis.call('ZCOUNT', base .. ':ready', '-inf', '(' .. digits(below * LEVEL)))
    return count > 0 and redis.call('ZPOPMIN', base .. ':ready', count) or popped
  end
  if ageing > 0 then
    local turn = redis.call('INCRBY', base .. ':turn', count)
    for _ = 1, math.floor(turn / share) - math.floor((turn - count) / share) do
      local aged = oldest(base)
      if not aged then
        break
      end
      table.insert(popped, aged[1])
      table.insert(popped, aged[2])
    end
  end
  local next_in_line = redis.call('ZPOPMIN', base .. ':ready', count - #popped / 2)
  for _, value in ipairs(next_in_line) do
    table.insert(popped, value)
  end
  return popped
end

-- Says, for every consumer of this worker, which suspect it has or waits for.
local function note_aboard(word, base, id)
  aboard = word
  redis.call('SET', KEYS[3], table.concat({ base, consumer, id, word }, '\n'), 'PX', ABOARD_FOR)
end

-- True if no process of this worker holds anything that it may begin.
local function is_empty()
  for i = first_base, #KEYS do
    for _, name in ipairs(redis.call('ZRANGE', KEYS[i] .. ':consumers', 0, -1)) do
      for _, mark in ipairs(worker_of(name) == worker and redis.call('HVALS', KEYS[i] .. ':held:' .. name) or {}) do
        if string.sub(mark, 1, 1) ~= '=' then
          return false
        end
      end
    end
  end
  return true
end

-- True if this worker is the one that gets empty for a suspect.
local function drains_for(base, id)
  local key, lasts = base .. ':alone:' .. id, digits(lease / 1000)
  local mine = redis.call('SET', key, worker, 'NX', 'PX', lasts) or redis.call('GET', key) == worker
  if mine then
    redis.call('PEXPIRE', key, lasts)
  end
  return mine
end

-- True if it is a suspect's turn: by its place, or because it has waited for too long.
local function has_turn(base, id, score)
  local level = level_of(id)
  local head = redis.call('ZRANGE', base .. ':ready', 0, 0, 'WITHSCORES')
  local waited = NOW - FIRST - (score - level * LEVEL)
  return level < below and (not head[2] or score <= tonumber(head[2]) or ageing > 0 and waited > ageing)
end

-- Takes a suspect out of the line, unless this worker has one: returns its id and score in a table, or an empty one.
local function board(base)
  local empty
  local heads = aboard ~= 'beside' and aboard ~= 'alone'
      and redis.call('ZRANGE', base .. ':suspects', 0, SUSPECTS_LOOKED_AT - 1, 'WITHSCORES') or {}
  for i = 1, #heads, 2 do
    local id, score = heads[i], heads[i + 1]
    local last = history_of(base, id).strikes >= limit - 1
    if redis.call('HEXISTS', base .. ':messages', id) == 0 then
      redis.call('ZREM', base .. ':suspects', id)
    elseif last and (aboard == 'drains' or has_turn(base, id, tonumber(score))) then
      if empty == nil then
        empty = is_empty()
      end
      if empty then
        redis.call('ZREM', base .. ':suspects', id)
        redis.call('DEL', base .. ':alone:' .. id)
        note_aboard('alone', base, id)
        return { id, score }
      elseif drains_for(base, id) then
        note_aboard('drains', base, id)
        return {}
      end
    elseif not last and aboard ~= 'drains' and has_turn(base, id, tonumber(score)) then
      redis.call('ZREM', base .. ':suspects', id)
      note_aboard('beside', base, id)
      return { id, score }
    end
  end
  passed_over = true
  return {}
end

local function take(base, count)
  local popped = special[base] and board(base) or {}
  if aboard ~= 'alone' and aboard ~= 'drains' and count > #popped / 2 then
    for _, value in ipairs(pop(base, count - #popped / 2)) do
      table.insert(popped, value)
    end
  end
  local taken, ids, leases = {}, {}, {}
  for i = 1, #popped, 2 do
    table.insert(ids, popped[i])
  end
  if #ids == 0 then
    return taken
  end
  local bodies = redis.call('HMGET', base .. ':messages', unpack(ids))
  local histories = special[base] and redis.call('EXISTS', base .. ':history') == 1
    and redis.call('HMGET', base .. ':history', unpack(ids)) or {}
  for i, id in ipairs(ids) do
    if bodies[i] then
      table.insert(taken, id)
      table.insert(taken, bodies[i])
      table.insert(taken, histories[i] or '')
      table.insert(leases, id)
      table.insert(leases, digits(popped[i * 2]))
    end
  end
  if #leases > 0 then
    redis.call('HSET', base .. ':held:' .. consumer, unpack(leases))
  end
  return taken
end

-- The text of the first JSON string in `json` that stands behind `before`, a pattern which ends with its quote.
local function text_behind(json, before)
  local _, opening = string.find(json, before)
  local closing = opening and string.find(json, '["\\]', opening + 1)
  while closing and string.sub(json, closing, closing) == '\\' do
    closing = string.find(json, '["\\]', closing + 2)
  end
  if not closing then
    return nil
  end
  local text = string.sub(json, opening + 1, closing - 1)
  if not string.find(text, '\\', 1, true) then
    return text
  end
  local known, decoded = pcall(cjson.decode, '["' .. text .. '"]')
  return known and decoded[1] or nil
end

local function from_base64(text)
  local digits_of = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'
  return (string.gsub(text, '(.)(.)(.)(.)', function(...)
    local number = 0
    for _, digit in ipairs({ ... }) do
      number = number * 64 + (string.find(digits_of, digit, 1, true) or 1) - 1
    end
    return string.char(math.floor(number / 65536), math.floor(number / 256) % 256, number % 256)
  end))
end

-- The id of a message's task: among its headers, or with protocol 1 at the beginning of its body, which the stock
-- transport writes in base64.
local function task_of(message)
  local task = text_behind(message, '"id":%s*"')
  if task then
    return task
  end
  local body = text_behind(message, '"body":%s*"') or ''
  if string.sub(body, 1, 1) ~= '{' then
    body = from_base64(string.sub(body, 1, BASE64_LOOKED_AT))
  end
  return text_behind(body, '"id":%s*"')
end

-- Which of the tasks taken were revoked, perhaps before this worker was there to hear it.
local function revoked_among(taken)
  local found = {}
  for i = 2, #taken, 3 do
    local task = task_of(taken[i])
    if task and redis.call('ZSCORE', KEYS[2], task) then
      table.insert(found, task)
    end
  end
  return found
end

-- Which of the messages taken come back from where they had been put aside.
local function back_among(base, taken)
  local found = {}
  if special[base] and #taken > 0 and redis.call('EXISTS', base .. ':aside') == 1 then
    for i = 1, #taken, 3 do
      if redis.call('SREM', base .. ':aside', taken[i]) == 1 then
        table.insert(found, taken[i])
      end
    end
  end
  return found
end

-- The next moment at which this queue changes without anybody's doing: a delay ends, a lease may end.
local function next_change(base)
  local moment
  for _, waiting in ipairs(special[base] and { ':delayed', ':unpark' } or {}) do
    local first = redis.call('ZRANGE', base .. waiting, 0, 0, 'WITHSCORES')
    if first[2] and (not moment or tonumber(first[2]) < moment) then
      moment = tonumber(first[2])
    end
  end
  local leases = redis.call('ZRANGE', base .. ':consumers', 0, 1, 'WITHSCORES')
  for i = 1, #leases, 2 do
    if leases[i] ~= consumer and (not moment or tonumber(leases[i + 1]) < moment) then
      moment = tonumber(leases[i + 1])
    end
  end
  return moment
end

local reply, argument, soonest, more = { -1, 0, NOW }, 8, nil, 0
local some_of_these = redis.call('EXISTS', KEYS[1], KEYS[2], KEYS[3]) > 0
local all_paused = some_of_these and redis.call('EXISTS', KEYS[1]) == 1
local some_revoked = some_of_these and redis.call('EXISTS', KEYS[2]) == 1
local lists, dead_of = {}, {}
for i = first_base, #KEYS do
  local base, list, count = KEYS[i], ARGV[argument], tonumber(ARGV[argument + 1])
  local settlements, dead = {}, {}
  for j = argument + 2, argument + 1 + count do
    table.insert(settlements, ARGV[j])
  end
  argument = argument + 2 + count
  lists[i], dead_of[i] = list, dead

  redis.call('ZADD', base .. ':consumers', digits(NOW + lease), consumer)
  settle(base, consumer, settlements, limit, dead)
  restore(base, dead)
  look_for_special(base)
  if special[base] then
    promote(base)
    unpark(base)
  end
  if list ~= '' and list ~= '-' then
    adopt(base, list)
  end
end

-- Only now is it known what this worker holds.
aboard = some_of_these and look_aboard(KEYS[3], worker) or nil
for i = first_base, #KEYS do
  local base, list, taken = KEYS[i], lists[i], {}
  local paused = list == '-' or all_paused or special[base] and redis.call('EXISTS', base .. ':paused') == 1
  if wanted > 0 and not paused then
    taken = take(base, wanted)
    wanted = wanted - #taken / 3
  end
  if list ~= '-' then
    local ready = not paused and redis.call('EXISTS', base .. ':ready') == 1
    local suspects = not paused and not ready and special[base] and redis.call('EXISTS', base .. ':suspects') == 1
    if ready or suspects and not (aboard or passed_over) then
      more = 1
      wake(base)
    elseif not suspects then
      redis.call('DEL', base .. ':wake')
    end
  end
  local moment = next_change(base)
  if moment and (not soonest or moment < soonest) then
    soonest = moment
  end
  local revoked = some_revoked and revoked_among(taken) or {}
  table.insert(reply, { taken, dead_of[i], revoked, back_among(base, taken) })
  if special[base] then
    used(base)
  end
end
if HELD_BACK[aboard] then
  more, soonest = HELD_BACK[aboard], math.min(soonest or math.huge, NOW + LOOK_AGAIN_AFTER)
end
if soonest then
  reply[1] = math.max(soonest - NOW, 0)
end
reply[2] = more
return reply
