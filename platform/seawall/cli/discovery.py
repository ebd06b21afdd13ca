"""Where Celery applications are made in the files of the working directory. Nothing is imported."""

import ast
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_CLASSES: Final = frozenset({"Celery", "Seawall"})
_DEEPEST: Final = 2
"""Directories below the working directory that are looked into: `shop/web/celery.py` is found."""
_MOST: Final = 5000  # files that are read
_PASSED_OVER: Final = frozenset({"node_modules", "tests", "test", "docs", "build", "dist", "__pycache__"})


def guessed_apps() -> list[str]:
    """What `-A` could name here: modules whose top level makes a Celery application, the shortest first."""
    return sorted(set(_guessed(Path())), key=lambda name: (name.count("."), name))


def hint() -> str:
    """How to type what `-A` takes here: a guess, or the words for it."""
    return next(iter(guessed_apps()), "MODULE")


def place_below(app: str) -> str:
    """Where to write about the application that was loaded as `app`: `below line 3 of tasks.py`."""
    module = app.partition(":")[0]
    for name in (module, f"{module}.celery"):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is None:
            continue
        path = Path(file)
        for statement in _statements(path):
            if any(_made_by(statement)):
                shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
                return f"below line {statement.end_lineno} of {shown}"
    return "below the line that makes it"


def _guessed(root: Path) -> Iterator[str]:
    for path in itertools.islice(_modules(root), _MOST):
        names = [name for statement in _statements(path) for name in _made_by(statement)]
        if not names:
            continue
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        # Celery finds these by itself.
        short = module.removesuffix(".celery")
        yield short if names[0] in {"app", "celery"} else f"{module}:{names[0]}"


def _modules(root: Path) -> Iterator[Path]:
    for directory, below, names in os.walk(root):
        place = Path(directory)
        deep = len(place.relative_to(root).parts) >= _DEEPEST
        below[:] = [] if deep else sorted(name for name in below if _is_searched(place / name))
        yield from (
            place / name for name in sorted(names) if name.endswith(".py") and name[:-3].isidentifier()
        )


def _is_searched(directory: Path) -> bool:
    name = directory.name
    return name.isidentifier() and name not in _PASSED_OVER and not (directory / "pyvenv.cfg").is_file()


def _statements(path: Path) -> list[ast.stmt]:
    """The top level of a file that mentions an application; nothing of one that cannot be read."""
    try:
        source = path.read_text(encoding="utf-8")
        return ast.parse(source).body if any(name in source for name in _CLASSES) else []
    except (OSError, ValueError, SyntaxError, RecursionError):
        return []


def _made_by(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement gives to a new application."""
    if not isinstance(statement, ast.Assign | ast.AnnAssign) or not isinstance(statement.value, ast.Call):
        return
    call = statement.value
    if _called(call) == "install" and call.args and isinstance(call.args[0], ast.Call):
        call = call.args[0]  # app = seawall.install(Celery("shop"))
    if _called(call) in _CLASSES:
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def _called(call: ast.Call) -> str:
    """The last name of what is called: `Celery` of `celery.Celery(...)`."""
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
