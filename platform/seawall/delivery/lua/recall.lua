-- Puts back in line what a consumer holds beside the one message it works on, for as long as it works on that:
-- what it claims later is not touched, as it has the settlement of that message confirmed before it claims.
-- KEYS: base of the queue of the message, then the bases to recall from. ARGV: consumer, id of the message, ids that
--       it is done with, whose settlements may still be under way.
-- Returns how many went back.
local consumer, working_on, recalled, done = ARGV[1], ARGV[2], 0, {}
for i = 2, #ARGV do
  done[ARGV[i]] = true
end
if redis.call('HEXISTS', KEYS[1] .. ':held:' .. consumer, working_on) == 0 then
  return 0
end
for i = 2, #KEYS do
  for _, id in ipairs(redis.call('HKEYS', KEYS[i] .. ':held:' .. consumer)) do
    if not done[id] then
      settle_one.r(KEYS[i], consumer, id)
      recalled = recalled + 1
    end
  end
  used(KEYS[i])
end
return recalled
