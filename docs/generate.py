"""Write docs/configuration.md and docs/fleet.md from the classes that read them; `--check` only compares."""

import sys
from pathlib import Path

from seawall.config import DEFAULT_FILE, FILE_VARIABLE, Settings, keys
from seawall.fleet.written import reference

INTRODUCTION = f"""# Configuration

<!-- Generated from seawall.config.Settings: edit the descriptions there, then run `make docs`. -->

Every setting is an environment variable, or a key of a TOML file. The environment wins over the file, the
file over the default. The file is named by `{FILE_VARIABLE}`; without that, `{DEFAULT_FILE}` in the working
directory is read if it exists. Sizes take units (`512MiB`, `2GB`), durations too (`30s`, `250ms`, `5m`).
A number out of its bounds, infinity and nan are refused in one line; "no end" is to leave a key out, or 0
where that is among the bounds. An unknown key or variable is refused, so a typing error cannot pass as a
default.

`seawall config` prints what is in force and where each value came from; passwords are hidden.
"""


FLEET = """# fleet.toml

<!-- Generated from seawall.fleet.spec: edit the descriptions there, then run `make docs`. -->

What `seawall up` runs: an application, kinds of workers, beat, Flower. `seawall init` writes one for the
application of the directory, with every field as a comment; `seawall up -A APP` runs an application with
the defaults and no file. It is `fleet.toml`, or `workers/fleet.toml` where only that exists, or what
`SEAWALL_FLEET` names.

For completion and checks in an editor:

```sh
seawall init --schema > fleet.schema.json
```

and the first line `#:schema ./fleet.schema.json` in the file (Even Better TOML and Taplo read it). Durations
and sizes take units (`"30s"`, `"512MiB"`). An unknown field is refused, with the one that is nearest.
"""


def configuration() -> str:
    """The page of the settings."""
    lines = [INTRODUCTION, "| key | variable | type | default | what it is |", "|---|---|---|---|---|"]
    lines += [
        f"| `{key.name}` | `{key.variable}` | {key.kind} | `{key.default}` | {key.description} |"
        for key in keys()
    ]
    sections = [
        f"- `[{name}]`: {field.annotation.__doc__}"
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type)
        and field.annotation.__doc__
        and hasattr(field.annotation, "model_fields")
    ]
    return "\n".join([*lines, "", "Sections of the TOML file:", "", *sections, ""])


def fleet() -> str:
    """The page of fleet.toml."""
    return "\n".join([FLEET, *reference()]).rstrip() + "\n"


PAGES = {"configuration.md": configuration, "fleet.md": fleet}


def main() -> int:
    """Exit code 1 if `--check` finds a page outdated."""
    wrong = 0
    for name, made in PAGES.items():
        page = Path(__file__).with_name(name)
        if "--check" not in sys.argv[1:]:
            page.write_text(made())
        elif not page.is_file() or page.read_text() != made():
            sys.stderr.write(f"{name} is not what the code says: run `make docs` and commit it\n")
            wrong = 1
    return wrong


if __name__ == "__main__":
    sys.exit(main())
