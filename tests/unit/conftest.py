"""Fixtures for the tests of this directory."""

from support.claimants import *  # noqa: F403 - its __all__ is its fixtures
