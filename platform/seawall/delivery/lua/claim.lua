-- Leases the next messages to a consumer, and carries its settlements: one round trip for both.
-- KEYS: the key that pauses every queue, the zset of revoked tasks, then one base per queue in the order to serve them.
-- ARGV: consumer, lease (us), delivery limit, how many, ageing (us in line after which the oldest message
--       may go first, 0 = never), share (every n-th claim goes to it), the level from which on messages stay
--       in line (10 = none does), then per queue: the stock transport's list to import from ('' = do not,
--       '-' = only settle here), number of settlements, the settlements.
-- Returns {us until something may change by itself (-1 = nothing known), 1 if more is ready,
--          per queue {{id, body, history or "", ...}, {ids that became dead letters}, {revoked task ids}}}.
local consumer, lease, limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local wanted, ageing, share, below = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
-- A claim holds the server up for milliseconds at most; what remains is the next claim's.
local PROMOTED_AT_ONCE, ADOPTED_AT_ONCE, RESTORED_AT_ONCE = 500, 100, 10

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
    redis.call('ZADD', base .. ':ready', unpack(places_of))
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

-- Messages of publishers that still use the stock transport: its four lists, most urgent first.
local function adopt(base, list)
  for _, step in ipairs({ '', '\6\0223', '\6\0226', '\6\0229' }) do
    for _ = 1, ADOPTED_AT_ONCE do
      local body = redis.pcall('RPOP', list .. step)
      if type(body) ~= 'string' then
        break
      end
      local known, message = pcall(cjson.decode, body)
      local priority = known and type(message.properties) == 'table' and tonumber(message.properties.priority)
      local level = 9 - math.max(0, math.min(9, math.floor(priority or 0)))
      local place = places(base, 1)
      local id = level .. 'L' .. digits(place)
      redis.call('HSET', base .. ':messages', id, body)
      line_up(base, id, digits(level * LEVEL + place))
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

local function take(base, count)
  local popped = pop(base, count)
  local taken, ids, leases = {}, {}, {}
  for i = 1, #popped, 2 do
    table.insert(ids, popped[i])
  end
  if #ids == 0 then
    return taken
  end
  local bodies = redis.call('HMGET', base .. ':messages', unpack(ids))
  local histories = redis.call('EXISTS', base .. ':history') == 1
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

-- Which of the tasks taken were revoked, perhaps before this worker was there to hear it.
local function revoked_among(taken)
  local found = {}
  for i = 2, #taken, 3 do
    local task = string.match(taken[i], '"id":%s*"([^"]+)"')
    if task and redis.call('ZSCORE', KEYS[2], task) then
      table.insert(found, task)
    end
  end
  return found
end

-- The next moment at which this queue changes without anybody's doing: a delay ends, a lease may end.
local function next_change(base)
  local delayed = redis.call('ZRANGE', base .. ':delayed', 0, 0, 'WITHSCORES')
  local moment = delayed[2] and tonumber(delayed[2])
  local parked = redis.call('ZRANGE', base .. ':unpark', 0, 0, 'WITHSCORES')
  if parked[2] and (not moment or tonumber(parked[2]) < moment) then
    moment = tonumber(parked[2])
  end
  local leases = redis.call('ZRANGE', base .. ':consumers', 0, 1, 'WITHSCORES')
  for i = 1, #leases, 2 do
    if leases[i] ~= consumer and (not moment or tonumber(leases[i + 1]) < moment) then
      moment = tonumber(leases[i + 1])
    end
  end
  return moment
end

local reply, argument, soonest, more = { -1, 0 }, 8, nil, 0
local all_paused, some_revoked = redis.call('EXISTS', KEYS[1]) == 1, redis.call('EXISTS', KEYS[2]) == 1
for i = 3, #KEYS do
  local base, list, count = KEYS[i], ARGV[argument], tonumber(ARGV[argument + 1])
  local settlements, dead, taken = {}, {}, {}
  for j = argument + 2, argument + 1 + count do
    table.insert(settlements, ARGV[j])
  end
  argument = argument + 2 + count

  redis.call('ZADD', base .. ':consumers', digits(NOW + lease), consumer)
  settle(base, consumer, settlements, limit, dead)
  restore(base, dead)
  promote(base)
  unpark(base)
  if list ~= '' and list ~= '-' then
    adopt(base, list)
  end

  local paused = list == '-' or all_paused or redis.call('EXISTS', base .. ':paused') == 1
  if wanted > 0 and not paused then
    taken = take(base, wanted)
    wanted = wanted - #taken / 3
  end
  if list ~= '-' then
    if paused or redis.call('EXISTS', base .. ':ready') == 0 then
      redis.call('DEL', base .. ':wake')
    else
      more = 1
      wake(base)
    end
  end
  local moment = next_change(base)
  if moment and (not soonest or moment < soonest) then
    soonest = moment
  end
  table.insert(reply, { taken, dead, some_revoked and revoked_among(taken) or {} })
end
if soonest then
  reply[1] = math.max(soonest - NOW, 0)
end
reply[2] = more
return reply
