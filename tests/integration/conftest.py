"""Worker nodes for the tests of this directory."""

from support.nodes import *  # noqa: F403 - its __all__ is its fixtures
from support.rabbitmq import *  # noqa: F403
