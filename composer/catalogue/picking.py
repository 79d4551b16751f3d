"""Which network is asked for, and which of its levels. No torch here."""

from __future__ import annotations

from collections.abc import Sequence

from composer.contracts.rules import Refusal
from composer.problem import nearest


def unknown(name: str, version: str, names: Sequence[str]) -> Refusal:
    """A name that `version` of timm does not know; `names` are those that may have been meant."""
    return Refusal(
        code="network",
        kind="impossible",
        expected="is not a network of timm",
        got=version,
        repair=nearest(name, names),
    )


def counted_from_0(out_indices: tuple[int, ...], count: int) -> tuple[int, ...] | Refusal:
    """The levels asked for of `count`, counted from 0; refused where one is not there, or they are out of order."""
    for position, index in enumerate(out_indices):
        if not -count <= index < count:
            return _no_level(position, index, count)
    indices = tuple(index % count for index in out_indices)
    if list(indices) != sorted(set(indices)):
        return _out_of_order(out_indices, sorted(set(indices)))
    return indices


def _no_level(position: int, index: int, count: int) -> Refusal:
    return Refusal(
        code="index",
        kind="impossible",
        expected=f"has levels 0 to {count - 1}",
        got=f"level {index}",
        repair=f"use out_indices from {-count} to {count - 1}",
        about=f"out_indices[{position}]",
    )


def _out_of_order(out_indices: tuple[int, ...], ordered: list[int]) -> Refusal:
    return Refusal(
        code="order",
        kind="lies",
        expected="gives its levels in its own order, each once",
        got=f"out_indices {list(out_indices)}",
        repair=f"out_indices: {ordered}, and SelectIndices for another order",
        about="out_indices",
    )
