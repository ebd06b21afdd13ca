"""Options that are numbers, in the words and bounds of `seawall.quantity`."""

from typing import Any, Final

import click

from seawall.quantity import LONGEST_WAIT, Duration, Quantity, Whole, shown


class Amount(click.ParamType):  # type: ignore[type-arg] # generic from click 8.5 on
    """The type of an option that is a number of some kind, in that kind's words and bounds."""

    def __init__(self, kind: Quantity) -> None:
        self.kind = kind
        self.name = kind.unit

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number that `value` means."""
        try:
            return self.kind.read(value)
        except ValueError as exc:
            self.fail(f"{shown(value)} {exc}", param, ctx)


LISTED: Final = Amount(Whole(least=1))
"""Of `--limit`: rows to print."""

EVERY: Final = Amount(Duration(least=0.1, most=LONGEST_WAIT))
"""Of `--watch`: seconds between two looks."""

FOR: Final = Amount(Duration(least=0.001))
"""Of `--for`: how long something is to last."""
