"""Puts features to workers of this application: `python -m support.features.run all|short|NAME PATIENCE`.

The last line is JSON: what came of each feature, by its name.
"""

import json
import sys
import time
import traceback

from support.features import calling, canvas, control, results, routing, tasks, workers
from support.features.application import app
from support.features.look import FEATURES, SHORT, Look, said

__all__ = ["calling", "canvas", "control", "results", "routing", "tasks", "workers"]


def main(which: str, patience: str) -> None:
    Look.patience = float(patience)
    app.tasks["look.noted"].apply_async(("before",), queue="second")
    say("submitted")  # before the second worker is there
    found = {}
    for name, look in FEATURES.items():
        if (which == "short" and name not in SHORT) or (which not in {"all", "short"} and which not in name):
            continue
        begun = time.monotonic()
        try:
            found[name] = said(look(Look(name)))
        except Exception as exc:  # noqa: BLE001 - that is what came of it
            traceback.print_exc()
            found[name] = f"raised {type(exc).__name__}: {exc}"
        say(f"{time.monotonic() - begun:6.2f} s {name}")
    say(json.dumps(found))


def say(line: str) -> None:
    """For the test, which reads it at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
