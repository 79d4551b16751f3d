"""Which levels of a network are asked for. No torch here."""

from __future__ import annotations

from composer.contracts.rules import Refusal


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
