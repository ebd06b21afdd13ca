-- Settles messages outside a claim.
-- KEYS: base. ARGV: consumer, delivery limit, settlements (see layout.lua).
-- Returns the ids that became dead letters.
local dead, settlements = {}, {}
for i = 3, #ARGV do
  table.insert(settlements, ARGV[i])
end
settle(KEYS[1], ARGV[1], settlements, tonumber(ARGV[2]), dead)
used(KEYS[1])
return dead
