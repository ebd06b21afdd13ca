-- Extends the leases of consumers that live, all of one worker.
-- KEYS: the suspect of that worker, then bases. ARGV: lease (us), consumers.
-- Returns 2 or 3 as a claim does, or 0: who has no room for another message claims nothing, and would not hear it.
for i = 2, #KEYS do
  for j = 2, #ARGV do
    redis.call('ZADD', KEYS[i] .. ':consumers', digits(NOW + tonumber(ARGV[1])), ARGV[j])
  end
  used(KEYS[i])
end
return HELD_BACK[look_aboard(KEYS[1], worker_of(ARGV[2])) or ''] or 0
