-- The run ledger: one row for each attempt that ended, never updated. A partition holds one day (UTC), so that
-- old days are dropped, not deleted. seawall.maintain_task_runs() makes and drops them; call it once a day or
-- oftener. Rows of a day that nobody made a partition for go to the default one and move when it is made.
CREATE TABLE seawall.task_runs (
    finished_at timestamptz NOT NULL,
    task_id text NOT NULL,
    attempt integer NOT NULL,
    state text NOT NULL,
    priority smallint NOT NULL,
    name text NOT NULL,
    queue text NOT NULL,
    worker text NOT NULL,
    enqueued_at timestamptz,
    started_at timestamptz,
    wait_ms integer,
    run_ms integer,
    peak_rss_kib integer,
    error_group_id bigint,
    meta jsonb,
    PRIMARY KEY (finished_at, task_id, attempt)
) PARTITION BY RANGE (finished_at);
CREATE INDEX task_runs_task_id ON seawall.task_runs (task_id);
CREATE INDEX task_runs_failures ON seawall.task_runs (name, finished_at DESC) WHERE state <> 'success';
CREATE INDEX task_runs_finished_at ON seawall.task_runs USING brin (finished_at);
CREATE TABLE seawall.task_runs_default PARTITION OF seawall.task_runs DEFAULT;

CREATE FUNCTION seawall.task_runs_day(day date) RETURNS text
LANGUAGE sql IMMUTABLE AS $$ SELECT 'task_runs_' || to_char(day, 'YYYYMMDD') $$;

CREATE FUNCTION seawall.add_task_runs_day(day date) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    partition text := seawall.task_runs_day(day);
    first timestamptz := day::timestamp AT TIME ZONE 'UTC';
    after timestamptz := (day + 1)::timestamp AT TIME ZONE 'UTC';
BEGIN
    IF to_regclass('seawall.' || partition) IS NOT NULL THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE seawall.%I (LIKE seawall.task_runs INCLUDING ALL)', partition);
    LOCK TABLE seawall.task_runs_default IN ACCESS EXCLUSIVE MODE;
    EXECUTE format(
        'WITH late AS (DELETE FROM seawall.task_runs_default WHERE finished_at >= %L AND finished_at < %L'
        ' RETURNING *) INSERT INTO seawall.%I SELECT * FROM late', first, after, partition);
    EXECUTE format('ALTER TABLE seawall.task_runs ATTACH PARTITION seawall.%I FOR VALUES FROM (%L) TO (%L)',
        partition, first, after);
END $$;

-- Successes are kept for `keep`, all else for `keep_failures`; both count whole days back from today.
CREATE FUNCTION seawall.maintain_task_runs(
    keep interval DEFAULT '7 days', keep_failures interval DEFAULT '7 days', ahead integer DEFAULT 3
) RETURNS void
LANGUAGE plpgsql SET lock_timeout = '5s' AS $$
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
    old record;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('seawall.maintain_task_runs'));
    FOR n IN 0 .. ahead LOOP
        PERFORM seawall.add_task_runs_day(today + n);
    END LOOP;
    FOR old IN
        SELECT c.relname, to_date(right(c.relname, 8), 'YYYYMMDD') AS day
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'seawall.task_runs'::regclass AND c.relname ~ '^task_runs_\d{8}$'
    LOOP
        IF old.day < today - greatest(keep, keep_failures) THEN
            EXECUTE format('DROP TABLE seawall.%I', old.relname);
        ELSIF old.day < today - keep THEN
            EXECUTE format('DELETE FROM seawall.%I WHERE state = ''success''', old.relname);
        ELSIF old.day < today - keep_failures THEN
            EXECUTE format('DELETE FROM seawall.%I WHERE state <> ''success''', old.relname);
        END IF;
    END LOOP;
    DELETE FROM seawall.task_runs_default WHERE finished_at < now() - greatest(keep, keep_failures);
END $$;

SELECT seawall.maintain_task_runs();
