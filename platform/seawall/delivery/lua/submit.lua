-- Puts messages in line, all or none: the queue's max_length holds for the whole batch.
-- KEYS: base.
-- ARGV: max_length (0 = none), expires (ms without use after which the queue goes, 0 = never),
--       then per message: id, due (us, 0 = now), body, unique key ('' = none), unique for (ms).
-- Returns {"full", length} or {"ok", index, owner id, index, owner id, ...}: the submissions (from 1) that
-- were refused because a unique key is taken. A batch is known by the id of its first message, for
-- REMEMBERED_FOR at least: submitting it again within that time changes nothing, whatever became of its
-- messages, and is answered as before. So a producer whose reply was lost repeats itself.
local base = KEYS[1]
local max_length, expires = tonumber(ARGV[1]), tonumber(ARGV[2])
local count = (#ARGV - 2) / 5
local batch = ARGV[3]

-- Two sets, one for this window and one for the last; both expire by themselves.
local submitted, before = unpack(submitted_of(base))
local repeated = redis.call('SADD', submitted, batch) == 0 or redis.call('SISMEMBER', before, batch) == 1

if max_length > 0 and not repeated then
  local length = redis.call('HLEN', base .. ':messages') - redis.call('ZCARD', base .. ':dead')
  if length + count > max_length then
    redis.call('SREM', submitted, batch)
    return { 'full', length }
  end
end

local reply, place, woken = { 'ok' }, places(base, count), false
for i = 0, count - 1 do
  local id, due, body = ARGV[i * 5 + 3], tonumber(ARGV[i * 5 + 4]), ARGV[i * 5 + 5]
  local unique, unique_for = ARGV[i * 5 + 6], ARGV[i * 5 + 7]
  local owner = id
  if unique ~= '' and (repeated or not redis.call('SET', base .. ':unique:' .. unique, id, 'NX', 'PX', unique_for)) then
    owner = redis.call('GET', base .. ':unique:' .. unique) or id
  end
  if owner ~= id then
    table.insert(reply, i + 1)
    table.insert(reply, owner)
  elseif not repeated and redis.call('HSETNX', base .. ':messages', id, body) == 1 then
    if due > NOW then
      local first = redis.call('ZRANGE', base .. ':delayed', 0, 0, 'WITHSCORES')
      woken = woken or not first[2] or due < tonumber(first[2])
      redis.call('ZADD', base .. ':delayed', digits(due), id)
    else
      redis.call('ZADD', base .. ':ready', digits(level_of(id) * LEVEL + place + i), id)
      woken = true
    end
  end
end

if redis.call('PTTL', submitted) < 0 then
  redis.call('PEXPIRE', submitted, 2 * REMEMBERED_FOR)
end
if woken then
  wake(base)
end
if expires > 0 then
  redis.call('SET', base .. ':expires', expires, 'PX', expires, 'NX')
end
used(base)
return reply
