-- A probe has ended. ARGV[5..7]: its lease, its epoch, "succeeded", "failed" or "released".
-- Without its lease, or in another epoch, it is late and changes nothing; who was interrupted before he heard of
-- his lease releases it without knowing the epoch. Returns the snapshot.
local circuit = load()
refresh(circuit)
free(circuit)
local lease, epoch, outcome = ARGV[5], tonumber(ARGV[6]), ARGV[7]
local written = circuit.changed
if circuit.state == 'half_open' and (epoch == circuit.epoch or outcome == 'released') and redis.call('ZREM', LEASES, lease) == 1 then
  written = true
  if outcome == 'failed' then
    open(circuit, 'probe failed')
  elseif outcome == 'succeeded' then
    circuit.succeeded = circuit.succeeded + 1
    if circuit.succeeded >= RULES.probes then
      go(circuit, 'closed', 'probes succeeded')
    end
  end
  if not circuit.changed then -- a permit is free again: who was refused may ask
    redis.call('PUBLISH', ROOT .. ':changes', snapshot(circuit))
  end
end
return written and save(circuit) or snapshot(circuit)
