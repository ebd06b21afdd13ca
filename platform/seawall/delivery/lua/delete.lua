-- Removes a queue with all it holds. KEYS: base.
local base = KEYS[1]
for _, consumer in ipairs(redis.call('ZRANGE', base .. ':consumers', 0, -1)) do
  redis.call('DEL', base .. ':held:' .. consumer)
end
for _, dependency in ipairs(redis.call('SMEMBERS', base .. ':parked')) do
  redis.call('DEL', base .. ':parked:' .. dependency)
end
for _, name in ipairs({ 'messages', 'ready', 'last', 'delayed', 'consumers', 'history', 'lineage', 'dead', 'parked',
  'unpark', 'paused', 'wake', 'turn' }) do
  redis.call('UNLINK', base .. ':' .. name)
end
return 1
