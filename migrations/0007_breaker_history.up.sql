-- What caused a transition and what led to it. The epoch tells transitions of one circuit apart, so that every
-- worker may write each of them down.
ALTER TABLE seawall.breaker_transitions
    ADD COLUMN epoch bigint NOT NULL DEFAULT 0,
    ADD COLUMN cause text NOT NULL DEFAULT '',
    ADD COLUMN author text NOT NULL DEFAULT '',
    ADD COLUMN calls bigint NOT NULL DEFAULT 0,
    ADD COLUMN failed bigint NOT NULL DEFAULT 0,
    ADD COLUMN slow bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN seawall.breaker_transitions.epoch IS 'Microseconds of the Redis server''s clock.';
-- squawk-ignore require-concurrent-index-creation -- no version before this one writes to the table
CREATE UNIQUE INDEX breaker_transitions_once ON seawall.breaker_transitions (name, epoch);
