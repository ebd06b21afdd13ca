-- The schema stays: the runner's history table lives in it.
COMMENT ON TABLE seawall.migration_history IS NULL;
COMMENT ON SCHEMA seawall IS NULL;
