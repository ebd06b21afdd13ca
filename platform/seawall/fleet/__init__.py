"""The supervision behind `seawall up`: one foreground process that runs the fleet's programs.

`spec` reads fleet.toml and says which programs there are, `supervision` runs them. No Celery in here:
a program is an argv, and what it tells us arrives by the sd_notify protocol.
"""

from seawall.fleet.console import Console
from seawall.fleet.control import Control, ask, find
from seawall.fleet.program import Program
from seawall.fleet.restart import RestartPolicy
from seawall.fleet.spec import FleetSpec
from seawall.fleet.supervision import Fleet

__all__ = ["Console", "Control", "Fleet", "FleetSpec", "Program", "RestartPolicy", "ask", "find"]
