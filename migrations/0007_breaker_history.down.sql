DROP INDEX seawall.breaker_transitions_once;
ALTER TABLE seawall.breaker_transitions
    DROP COLUMN epoch,
    DROP COLUMN cause,
    DROP COLUMN author,
    DROP COLUMN calls,
    DROP COLUMN failed,
    DROP COLUMN slow;
