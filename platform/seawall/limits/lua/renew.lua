-- Extends leases. ARGV: us of lease, then holders.
for i = 2, #ARGV do
  renew(ARGV[i], tonumber(ARGV[1]))
end
