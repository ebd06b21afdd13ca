-- Adds measured runs of one task. ARGV: name; shift, lowest and highest of the score's steps, the score at
-- which a task is flagged; runs that grew, and by how many bytes; runs after which old ones count half;
-- measured runs; then pairs of a field (p<bucket> or k<bucket>) and a count.
-- Returns whether the task was flagged before and is now, and the score.
local base, name = KEYS[1], ARGV[1]
local shift, lowest, highest, threshold = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local grown, kept, window, runs = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local key = base .. ':task:' .. name

if redis.call('HINCRBY', key, 'runs', runs) > 2 * window then
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    if fields[i] == 'runs' or string.find(fields[i], '^[pk]%d') then
      local half = math.floor(tonumber(fields[i + 1]) / 2)
      if half > 0 then
        redis.call('HSET', key, fields[i], half)
      else
        redis.call('HDEL', key, fields[i])
      end
    end
  end
end
for i = 10, #ARGV, 2 do
  redis.call('HINCRBY', key, ARGV[i], ARGV[i + 1])
end

local score = math.min(highest, math.max(lowest, tonumber(redis.call('HGET', key, 'score') or '0') + shift))
local before = redis.call('HEXISTS', key, 'leaking') == 1
local now = score >= threshold or (before and score > 0)
redis.call('HSET', key, 'score', string.format('%.17g', score))
if score == 0 then
  redis.call('HDEL', key, 'leaking', 'grown', 'kept')
else
  redis.call('HINCRBY', key, 'grown', grown)
  redis.call('HINCRBY', key, 'kept', kept)
  if now then
    redis.call('HSET', key, 'leaking', 1)
  end
end
redis.call('SADD', base .. ':tasks', name)
redis.call('EXPIRE', key, KEPT_FOR)
return { before and 1 or 0, now and 1 or 0, string.format('%.17g', score) }
