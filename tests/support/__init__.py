"""What the tests share: waiting, processes, servers, nodes."""
