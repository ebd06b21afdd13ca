-- An operator's word. ARGV[5..8]: "forced_open", "forced_closed" or "reset", seconds (0 = until a reset),
-- reason, author. Returns the snapshot.
local circuit = load()
local state, seconds = ARGV[5], tonumber(ARGV[6])
if state == 'reset' then
  go(circuit, 'closed', 'reset')
  circuit.trips, circuit.open_time = 0, 0
else
  refresh(circuit)
  go(circuit, state, 'forced', seconds > 0 and NOW + micros(seconds) or 0)
end
circuit.reason, circuit.author = ARGV[7], ARGV[8]
return save(circuit)
