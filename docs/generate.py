"""Write docs/configuration.md from the `Settings` class; `--check` only says whether it is true."""

import sys
from pathlib import Path

from seawall.config import DEFAULT_FILE, FILE_VARIABLE, Settings, keys

PAGE = Path(__file__).with_name("configuration.md")

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


def page() -> str:
    """The whole page as it should be."""
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


def main() -> int:
    """Exit code 1 if `--check` finds the page outdated."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page())
        return 0
    if PAGE.is_file() and PAGE.read_text() == page():
        return 0
    sys.stderr.write(f"{PAGE.name} is not what the Settings class says: run `make docs` and commit it\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
