"""fleet.toml for people and editors, from the model that reads it: the schema, the reference, a first file.

There is one description of each field, in `spec`, so none of the three can be out of date.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from seawall.fleet.spec import Beat, FleetSpec, Flower, Profile

_TABLES: Final[dict[str, type[BaseModel]]] = {"workers.default": Profile, "beat": Beat, "flower": Flower}
_FIRST_LINES: Final = """\
# What `seawall up` runs here. Lines that begin with "# " and a name show a default or an example:
# take the "# " away to change them. `seawall init --schema > fleet.schema.json` and a first line
# "#:schema ./fleet.schema.json" let an editor check and complete this file.
"""


def schema() -> dict[str, Any]:
    """The JSON schema of fleet.toml."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **FleetSpec.model_json_schema(),
        "title": "fleet.toml of Seawall",
    }


def first_file(app: str, queues: Sequence[str]) -> str:
    """A fleet.toml for the application `app`, whose tasks go to `queues`; all else is there as comments."""
    said = {"app": app, "queues": list(queues)}
    lines = [_FIRST_LINES]
    lines += _written(FleetSpec, said, tables=False)
    for table, model in _TABLES.items():
        lines += [f"[{table}]", *_written(model, said)]
    lines += _written(FleetSpec, said, tables=True)
    return "\n".join(lines).rstrip() + "\n"


def reference() -> Iterator[str]:
    """Lines of Markdown: a table of fields for each table of the file."""
    tables: dict[str, type[BaseModel]] = {"": FleetSpec, **_TABLES}
    for table, model in tables.items():
        title = f"`[{table}]`" if table else "At the top"
        yield from (f"## {title}", "", "| field | default | example | what it is |", "|---|---|---|---|")
        for name, field in model.model_fields.items():
            if field.description is not None:
                default, example = _default(field), field.examples
                cells = [f"`{name}`", *(f"`{_toml(each[0])}`" if each else "" for each in (default, example))]
                yield f"| {' | '.join(cells)} | {field.description} |"
        yield ""


def _written(model: type[BaseModel], said: dict[str, Any], *, tables: bool = False) -> Iterator[str]:
    """The fields of one table with their descriptions; of the whole file its values, or else its `tables`."""
    for name, field in model.model_fields.items():
        is_table = model is FleetSpec and field.default_factory is dict
        if field.description is None or name == "workers" or is_table is not tables:
            continue
        yield f"# {field.description}"
        shown = field.examples or _default(field)
        if is_table:
            yield from (f"# [{name}]", *(f"# {key} = {_toml(value)}" for key, value in shown[0].items()), "")
        elif name in said:
            yield from (f"{name} = {_toml(said[name])}", "")
        else:
            yield from (f"# {name} = {_toml(shown[0])}", "")


def _default(field: FieldInfo) -> list[Any]:
    """The default as the only element; empty if there is none to show."""
    return [] if field.default in (None, PydanticUndefined, ()) else [field.default]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)  # of text, numbers, truth and lists the same in TOML
