"""A script that needs the database: one line, and it is ready or says what is missing."""

import seawall


def main() -> None:
    """Count the tables."""
    system = seawall.bootstrap(features=seawall.Features(broker=False))
    tables = seawall.database().fetch_value("SELECT count(*) FROM information_schema.tables")
    print(f"{tables} tables, ready in {system.report().seconds:.3f} s")  # noqa: T201 - a script prints


if __name__ == "__main__":
    main()
