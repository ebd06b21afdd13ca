"""The demo's tables as `workers.demo.storage` expects them; `seawall migrate check` compares."""

from typing import Final

from seawall.database.schema import Table

_ROW: Final = {"import_id": "uuid", "chunk": "integer", "row_number": "integer"}
_TIME: Final = "timestamp with time zone"

TABLES: Final = (
    Table(
        "demo.imports",
        {
            "id": "uuid",
            "dataset": "text",
            "rows": "integer",
            "chunks": "integer",
            "loaded": "integer",
            "rejected": "integer",
            "started_at": _TIME,
            "finished_at": _TIME,
        },
    ),
    Table("demo.chunks", {"import_id": "uuid", "chunk": "integer", "rows": "integer"}, ("chunks_pkey",)),
    Table(
        "demo.airports",
        {
            **_ROW,
            **dict.fromkeys(("iata", "name", "city", "state", "country"), "text"),
            **dict.fromkeys(("latitude", "longitude"), "double precision"),
        },
        ("airports_pkey",),
    ),
    Table(
        "demo.temperatures",
        {**_ROW, "measured_at": "timestamp without time zone", "fahrenheit": "double precision"},
        ("temperatures_pkey",),
    ),
    Table("demo.rejects", {**_ROW, "raw": "text", "reason": "text"}, ("rejects_pkey",)),
)
