-- Which beat sends a schedule, and what it has sent. This text is put in front of each verb before it is loaded.
-- `root` is "seawall:{beat}", `name` names a schedule. All times are microseconds, of the server's clock except
-- where it says otherwise.
--
--   root:names           zset    name by the moment its lease ends, for those who list them
--   root:lease:<name>    hash    holder: token of the beat that sends; who: its host and pid; ends: when it has
--                                to have renewed the lease; entry, id: what it began to send and has not
--                                reported as sent, and the mark of that send
--   root:sent:<name>     zset    entry of the schedule by the moment of its last send, by the clock of its beat
--   root:waiting:<name>  zset    host and pid of a beat that waits, by the moment until which that counts
--
-- KEYS: root. All of it expires a day after the last beat of that name.
local KEPT = 86400
local ENTRIES_KEPT = 10000

local ROOT = KEYS[1]
local time = redis.call('TIME')
local NOW = time[1] * 1000000 + time[2]

local function digits(number)
  return string.format('%.0f', number)
end

local function key(what, name)
  return ROOT .. ':' .. what .. ':' .. name
end

local function renew(name, lasts)
  local lease = key('lease', name)
  redis.call('HSET', lease, 'ends', digits(NOW + lasts))
  redis.call('EXPIRE', lease, KEPT)
  redis.call('EXPIRE', key('sent', name), KEPT)
  redis.call('ZADD', ROOT .. ':names', digits(NOW + lasts), name)
  redis.call('EXPIRE', ROOT .. ':names', KEPT)
end

local function report_sent(name, id)
  local lease = key('lease', name)
  if redis.call('HGET', lease, 'id') == id then
    redis.call('HDEL', lease, 'entry', 'id')
  end
end
