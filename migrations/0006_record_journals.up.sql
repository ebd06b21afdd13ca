-- How far each journal of the workers has been written into the tables: in the same transaction as its rows, so
-- that a journal that is read again after a crash adds nothing twice.
CREATE TABLE seawall.record_journals (
    journal text PRIMARY KEY,
    applied bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN seawall.record_journals.applied IS 'Bytes.';
