-- What failures have in common: one row for all that have the same fingerprint. Rows are updated in place over
-- and over, hence the room left in each page.
CREATE TABLE seawall.error_groups (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    fingerprint text NOT NULL,
    exception text NOT NULL,
    task text NOT NULL,
    category text NOT NULL,
    severity text NOT NULL,
    status text NOT NULL DEFAULT 'open',
    first_seen timestamptz NOT NULL,
    last_seen timestamptz NOT NULL,
    count bigint NOT NULL DEFAULT 0,
    sample text,
    CONSTRAINT error_groups_fingerprint UNIQUE (fingerprint),
    CONSTRAINT error_groups_status CHECK (status IN ('open', 'resolved', 'ignored'))
) WITH (fillfactor = 70);
CREATE INDEX error_groups_last_seen ON seawall.error_groups (last_seen DESC);
COMMENT ON COLUMN seawall.error_groups.sample IS 'The traceback of one of them.';
