-- Where `seawall demo import` puts what it reads: one import is one run of one file.
CREATE SCHEMA demo;

CREATE TABLE demo.imports (
    id uuid PRIMARY KEY,
    dataset text NOT NULL,
    rows integer NOT NULL,
    chunks integer NOT NULL,
    loaded integer,
    rejected integer,
    started_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);
COMMENT ON COLUMN demo.imports.loaded IS 'Counted in the tables when every chunk was done.';

CREATE TABLE demo.chunks (
    import_id uuid NOT NULL REFERENCES demo.imports ON DELETE CASCADE,
    chunk integer NOT NULL,
    rows integer NOT NULL,
    PRIMARY KEY (import_id, chunk)
);
COMMENT ON TABLE demo.chunks IS 'The chunks that are done. A chunk locks its row while it runs.';

CREATE TABLE demo.airports (
    import_id uuid NOT NULL REFERENCES demo.imports ON DELETE CASCADE,
    chunk integer NOT NULL,
    row_number integer NOT NULL,
    iata text NOT NULL,
    name text NOT NULL,
    city text NOT NULL,
    state text NOT NULL,
    country text NOT NULL,
    latitude double precision NOT NULL CHECK (latitude BETWEEN -90 AND 90),
    longitude double precision NOT NULL CHECK (longitude BETWEEN -180 AND 180),
    PRIMARY KEY (import_id, iata)
);

CREATE TABLE demo.temperatures (
    import_id uuid NOT NULL REFERENCES demo.imports ON DELETE CASCADE,
    chunk integer NOT NULL,
    row_number integer NOT NULL,
    measured_at timestamp NOT NULL,
    fahrenheit double precision NOT NULL,
    PRIMARY KEY (import_id, measured_at)
);
COMMENT ON COLUMN demo.temperatures.measured_at IS 'Local time of the station, as in its file.';

CREATE TABLE demo.rejects (
    import_id uuid NOT NULL REFERENCES demo.imports ON DELETE CASCADE,
    chunk integer NOT NULL,
    row_number integer NOT NULL,
    raw text NOT NULL,
    reason text NOT NULL,
    PRIMARY KEY (import_id, row_number)
);
COMMENT ON TABLE demo.rejects IS 'Rows that were not loaded, as they stood in the file, and why.';
