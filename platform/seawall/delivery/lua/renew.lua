-- Extends the leases of consumers that live.
-- KEYS: bases. ARGV: lease (us), consumers.
for _, base in ipairs(KEYS) do
  for i = 2, #ARGV do
    redis.call('ZADD', base .. ':consumers', digits(NOW + tonumber(ARGV[1])), ARGV[i])
  end
  used(base)
end
return #KEYS
