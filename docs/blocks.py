"""Check that the Python in the documents names what there is: each page's blocks are typed, in order.

What a block leaves to its reader (`gateway`, `order`) is anything; what is the platform's, is the platform's.
"""

import re
import sys
import tempfile
from pathlib import Path
from typing import Final

from mypy import api

DOCS: Final = Path(__file__).parent
BLOCK: Final = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
GIVEN: Final = """import seawall
from seawall import *
app = Seawall("docs")
"""
"""What the pages take for granted."""

WRONG: Final = re.compile(r"\[(syntax|attr-defined|call-arg|import-not-found|import-untyped)\]$")


def main() -> None:
    """Print what is wrong, by page and block, and exit with 1 if anything is."""
    with tempfile.TemporaryDirectory() as folder:
        for page in (DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))):
            if blocks := BLOCK.findall(page.read_text(encoding="utf-8")):
                name = "_".join(page.relative_to(DOCS.parent).with_suffix("").parts)
                (Path(folder) / f"{name}.py").write_text(GIVEN + "\n".join(blocks), encoding="utf-8")
        said, problem, _ = api.run([folder, "--no-error-summary"])
    found = [line.removeprefix(f"{folder}/") for line in said.splitlines() if WRONG.search(line)]
    if problem or found:
        sys.exit("\n".join((problem, *found)))


if __name__ == "__main__":
    main()
