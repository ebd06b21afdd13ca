"""Who must be up before whom. Pure.

A graph that cannot be started is refused before anything is: unknown names, circles, names that stand twice,
and a critical service that relies on one that may be missing.
"""

import difflib
import graphlib
from collections.abc import Iterable, Mapping

from seawall.errors import ConfigError
from seawall.runtime.declaration import Declaration


def ordered(declarations: Iterable[Declaration]) -> dict[str, Declaration]:
    """By name, each after everything it requires.

    Raises:
        ConfigError: the graph cannot be started; the message shows the path that leads there.
    """
    by_name: dict[str, Declaration] = {}
    for each in declarations:
        if each.name in by_name:
            raise ConfigError(f"service {each.name!r} is declared twice: rename one of them")
        by_name[each.name] = each
    _refuse_missing(by_name)
    try:
        order = tuple(sorter(by_name).static_order())
    except graphlib.CycleError as exc:
        circle = [*exc.args[1]][::-1]  # graphlib names the required one first
        raise ConfigError(
            f"services require each other in a circle: {' -> '.join(circle)}; "
            f"take one of these names out of its service's `requires`"
        ) from None
    _refuse_weak_ground(by_name)
    return {name: by_name[name] for name in order}


def sorter(by_name: Mapping[str, Declaration]) -> "graphlib.TopologicalSorter[str]":
    """A fresh sorter of the graph, in the order of declaration where the graph leaves it open."""
    return graphlib.TopologicalSorter({name: each.requires for name, each in by_name.items()})


def _refuse_missing(by_name: Mapping[str, Declaration]) -> None:
    for each in by_name.values():
        for required in each.requires:
            if required not in by_name:
                near = difflib.get_close_matches(required, by_name, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(by_name)}"
                path = " -> ".join([*_path_to(each.name, by_name), required])
                raise ConfigError(
                    f"service {each.name!r} requires {required!r}, which is not declared ({path}): {hint}"
                )


def _path_to(name: str, by_name: Mapping[str, Declaration]) -> list[str]:
    """From a service that nothing requires down to `name`."""
    path = [name]
    while above := next((each.name for each in by_name.values() if path[0] in each.requires), None):
        if above in path:
            break
        path.insert(0, above)
    return path


def _refuse_weak_ground(by_name: Mapping[str, Declaration]) -> None:
    for each in by_name.values():
        weak = next((name for name in each.requires if each.critical and not by_name[name].critical), None)
        if weak is not None:
            raise ConfigError(
                f"service {each.name!r} is critical and requires {weak!r}, which is not: "
                f"declare {weak!r} critical, or {each.name!r} with critical=False"
            )
