-- May one call go through? ARGV[5]: the name of its lease, should it become a probe.
-- Returns "granted", "refused" or "closed", and the snapshot.
local circuit = load()
refresh(circuit)
if circuit.state == 'open' and NOW >= circuit['until'] then
  go(circuit, 'half_open', 'open long enough')
end
local answer = 'refused'
if circuit.state == 'half_open' and free(circuit) > 0 then
  redis.call('ZADD', LEASES, digits(NOW + micros(RULES.probe_for)), ARGV[5])
  expire(LEASES, RULES.probe_for + 1)
  answer = 'granted'
elseif circuit.state == 'closed' or circuit.state == 'forced_closed' then
  answer = 'closed'
end
return { answer, circuit.changed and save(circuit) or snapshot(circuit) }
