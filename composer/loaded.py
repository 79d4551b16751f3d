"""What was loaded into an encoder when it was built."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

MAX_LISTED_NAMES = 5
"""How many of many names are listed."""


@frozen
class LoadedWeights:
    """The weights that an encoder was built with: all of its parameters and persistent buffers are set.

    `file` is the path of a file, or None for published weights. `prefix` stood in front of the names in the file, and
    `unused` are the names of the tensors in it that were left aside.
    """

    file: str | None = None
    prefix: str = ""
    unused: tuple[str, ...] = ()


def list_names(names: Sequence[str]) -> str:
    """The first of many names, each in full, and how many more there are."""
    more = f" and {len(names) - MAX_LISTED_NAMES:,} more" if len(names) > MAX_LISTED_NAMES else ""
    return f"{', '.join(names[:MAX_LISTED_NAMES])}{more}"
