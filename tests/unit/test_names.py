"""Under which dependency a task of an unknown name is parked."""

import pytest

from seawall.worker.names import waits_for

AWKWARD = ["shop.new", "a\nb", "a b", "", "\udcff", "a:b", "a%b", "ä" * 400, "x" * 5000, "x" * 4999 + "y"]


@pytest.mark.parametrize("name", AWKWARD)
def test_a_dependency_is_short_and_plain(name: str) -> None:
    dependency = waits_for(name)
    assert dependency.isascii()
    assert "\n" not in dependency
    assert len(dependency) < 256


def test_different_names_wait_for_different_dependencies() -> None:
    assert len({waits_for(name) for name in AWKWARD}) == len(AWKWARD)
    assert waits_for("shop.new") == "name:shop.new"
