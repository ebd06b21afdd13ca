"""`python -m seawall.worker -A app worker ...`: `celery -A app worker ...` without what only people need.

Celery's command line imports the commands of all packages that declare some (Flower with Tornado and the
rest) and, for `celery amqp`, a shell with prompt_toolkit. This entry spares a fleet's commands that and is
`python -m celery` in everything else, `sys.argv` and the `__main__` module included. Any other command gets
Celery's own command line, whole.
"""

import importlib.metadata
import runpy
import sys
from types import ModuleType
from typing import Any, Final

_LEAN: Final = frozenset({"worker", "beat"})
_DECLARED: Final = "celery.commands"
"""The entry points in which packages declare commands."""


def main() -> None:
    """Run Celery's command line, which begins with the patches of gevent where its pool is asked for."""
    if _LEAN.intersection(sys.argv):
        _leave_out_declared_commands()
        _leave_out_the_shell()
    runpy.run_module("celery", run_name="__main__", alter_sys=True)


def _leave_out_declared_commands() -> None:
    """Have Celery, which asks once, find no commands of other packages; all else is answered as it was."""
    entry_points: Any = importlib.metadata.entry_points

    def others(**wanted: Any) -> Any:
        if wanted.get("group") != _DECLARED:
            return entry_points(**wanted)
        importlib.metadata.entry_points = entry_points
        return ()

    importlib.metadata.entry_points = others


def _leave_out_the_shell() -> None:
    """Stand in for click_repl, until Celery has called the one function that it takes of it."""
    stand_in: Any = ModuleType("click_repl")
    stand_in.register_repl = lambda *_args, **_options: sys.modules.pop("click_repl", None)
    sys.modules.setdefault("click_repl", stand_in)


if __name__ == "__main__":
    main()
