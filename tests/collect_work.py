"""A decoder that one picture kills, in a module that a spawned process can import."""

import os
from collections.abc import Callable, Sequence

from tastemaker.stages import collect
from tastemaker.store.ledger import Inspected
from tastemaker.store.source_item import SourceItem

open_inspect = collect.open_inspect


def open_fragile(device: str) -> Callable[[Sequence[SourceItem]], list[Inspected]]:
    """As `collect.open_inspect`, but a picture called poison.png ends the process."""
    inspect = open_inspect(device)

    def inspect_or_die(items: Sequence[SourceItem]) -> list[Inspected]:
        if any(item.key == "poison.png" for item in items):
            os._exit(3)
        return inspect(items)

    return inspect_or_die
