-- KEYS: base. Answers the budget (0: unknown), then process, held, grant, want and label of each lease.
local answer = { tonumber(redis.call('GET', KEYS[1] .. ':budget') or '0') }
for id, lease in pairs(leases(KEYS[1])) do
  for _, value in ipairs({ id, lease.held, lease.grant, lease.want, lease.label }) do
    table.insert(answer, value)
  end
end
return answer
