-- Says whose the schema is that holds everything Seawall keeps in PostgreSQL. The migration runner has created
-- it already, with its history table: that must exist before the first migration.
COMMENT ON SCHEMA seawall IS 'Seawall, the task platform. Changed only by `seawall migrate`.';
COMMENT ON TABLE seawall.migration_history IS
    'One row per migration: its checksum, how to undo it, and whether it finished.';
