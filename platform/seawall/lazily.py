"""Names of a package that are imported when they are first used.

A package's `__getattr__` may raise AttributeError only for a name that it does not have: Python takes that
for an answer, and `from package import name` then says nothing but that the name is not there. An
AttributeError from the code of the module that has the name is therefore raised as an ImportError with its
cause; any other error goes on as it is.
"""

import importlib
from typing import Any


def imported(module: str, name: str) -> Any:
    """The attribute `name` of `module`, which is imported now.

    Raises:
        ImportError: the module raised AttributeError, or is being imported and has no such name yet.
    """
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError as exc:
        raise ImportError(f"{name} cannot be imported from {module} ({exc})", name=name, path=module) from exc
