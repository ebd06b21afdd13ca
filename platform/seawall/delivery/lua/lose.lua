-- A consumer is known to be dead: its messages are back now and not when its lease ends.
-- KEYS: base. ARGV: consumer, delivery limit. Returns the ids that became dead letters.
local dead = {}
take_back(KEYS[1], ARGV[1], tonumber(ARGV[2]), dead)
return dead
