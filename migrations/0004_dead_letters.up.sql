-- Tasks that were given up, with all that is needed to look at them and to submit them again.
CREATE TABLE seawall.dead_letters (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id text NOT NULL,
    name text NOT NULL,
    queue text NOT NULL,
    args jsonb,
    kwargs jsonb,
    headers jsonb,
    size bigint,
    error_group_id bigint,
    traceback text,
    first_failed_at timestamptz,
    dead_at timestamptz NOT NULL DEFAULT now(),
    reason text NOT NULL,
    attempts integer NOT NULL DEFAULT 1,
    state text NOT NULL DEFAULT 'open',
    resolved_by text,
    resolved_at timestamptz,
    CONSTRAINT dead_letters_state CHECK (state IN ('open', 'requeued', 'discarded'))
);
CREATE UNIQUE INDEX dead_letters_open ON seawall.dead_letters (task_id) WHERE state = 'open';
CREATE INDEX dead_letters_dead_at ON seawall.dead_letters (dead_at);
CREATE INDEX dead_letters_error_group ON seawall.dead_letters (error_group_id);
COMMENT ON COLUMN seawall.dead_letters.size IS 'Bytes of the message.';
