"""A message that a claim brought."""

from typing import NamedTuple


class Claimed(NamedTuple):
    """One leased message as it came from the server; `history` is empty for one never lost."""

    queue: str
    id: str
    body: bytes
    history: bytes

    @property
    def level(self) -> int:
        """9 - priority: the lowest goes first."""
        return int(self.id[0])

    @property
    def of_stock(self) -> bool:
        """Whether it was taken from a list of the stock transport (claim.lua)."""
        return self.id[1:2] == "L"
