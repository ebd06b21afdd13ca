"""All patterns of the package, as its modules hold them."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import seawall
from seawall.redaction.rules import Rule


def modules() -> Iterator[ModuleType]:
    """Every module of ours that has patterns."""
    root = Path(seawall.__path__[0])
    for path in sorted(root.rglob("*.py")):
        if "re.compile(" in path.read_text():
            parts = path.relative_to(root).with_suffix("").parts
            yield importlib.import_module(".".join(("seawall", *parts)).removesuffix(".__init__"))


def patterns() -> Iterator[tuple[str, re.Pattern[Any], str]]:
    """Each pattern, and in which way it is used: one that is only tried in one place is not looked for."""
    for module in modules():
        source = Path(str(module.__file__)).read_text()
        for name, value in vars(module).items():
            found = value.values() if isinstance(value, dict) else [value]
            if isinstance(value, tuple) and value and isinstance(value[0], Rule):
                found = [pattern for rule in value for pattern in (rule.sign, rule.beside)]
            used = set(re.findall(rf"\b{name}(?:\[.*?\])?\.(\w+)\(", source))
            way = next((way for way in ("match", "fullmatch") if used == {way}), "finditer")
            for number, pattern in enumerate(each for each in found if isinstance(each, re.Pattern)):
                yield f"{module.__name__}.{name}{number or ''}", pattern, way
