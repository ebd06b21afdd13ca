"""`python -m seawall.embedded HOME`: the keeper of HOME. `attach` starts it, socket as stdin."""

import logging
import os
import socket
import sys
from pathlib import Path

from seawall.embedded.home import Home
from seawall.embedded.keeper import Keeper

log = logging.getLogger("seawall.embedded")


def main() -> None:
    """Become a daemon in the session we were given, and keep."""
    # The starter waits for its own child only, and so never has a keeper among its children to reap.
    if os.fork():
        os._exit(0)
    listener = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s keeper[%(process)d] %(message)s")
    try:
        Keeper(Home(Path(sys.argv[1])), listener, linger=_linger()).run()
    except Exception:
        log.exception("the keeper failed; the servers stop with it")
        raise


def _linger() -> float:
    """Seconds the servers outlive their last user, so that a row of short commands need not restart them."""
    return float(os.environ.get("SEAWALL_EMBEDDED_LINGER", "1.0"))


if __name__ == "__main__":
    main()
