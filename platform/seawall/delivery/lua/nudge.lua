-- Something is due: one of those who wait shall look. KEYS: bases.
for _, base in ipairs(KEYS) do
  wake(base)
  used(base)
end
return #KEYS
