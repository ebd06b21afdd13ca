-- Every change of a circuit breaker's state, for the record: the state itself lives in Redis.
CREATE TABLE seawall.breaker_transitions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    name text NOT NULL,
    before text NOT NULL,
    after text NOT NULL,
    reason text NOT NULL DEFAULT '',
    worker text NOT NULL DEFAULT ''
);
CREATE INDEX breaker_transitions_name ON seawall.breaker_transitions (name, at DESC);
CREATE INDEX breaker_transitions_at ON seawall.breaker_transitions USING brin (at);
