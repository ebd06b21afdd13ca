-- Tells what a process did with its own circuit from what the fleet did with the one that it shares. Rows of a
-- process have an epoch that is negative and drawn at random: the index on name and epoch goes on telling them apart.
ALTER TABLE seawall.breaker_transitions ADD COLUMN scope text NOT NULL DEFAULT 'cluster';
COMMENT ON COLUMN seawall.breaker_transitions.scope IS
    'cluster: the circuit that the fleet shares; process: that of the process in worker, alone.';
COMMENT ON COLUMN seawall.breaker_transitions.epoch IS
    'Microseconds of the Redis server''s clock; of a process, a number below zero that nobody else has.';
