DELETE FROM seawall.breaker_transitions WHERE scope = 'process';
COMMENT ON COLUMN seawall.breaker_transitions.epoch IS 'Microseconds of the Redis server''s clock.';
ALTER TABLE seawall.breaker_transitions DROP COLUMN scope;
