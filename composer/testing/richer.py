"""What a run shows nothing of, others may: the same on a larger image, and inputs of more levels, frames and channels.

Over one cell, one level, one frame or one channel a softmax and a norm are constant, and no gradient passes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, prod

from attrs import evolve

from composer.contracts import Promise
from composer.feature import Features
from composer.testing.cases import MOST_NUMBERS, Case
from composer.testing.inputs import Inputs
from composer.testing.subjects import sizes_of

CELLS = ((4, 5), (2, 3))
"""How many cells the coarsest level has; the first for which the finest has few enough."""

MOST_CELLS = 2048
"""Cells of the finest level: attention over them is in the square of that."""

MOST_RICH = 40 * MOST_NUMBERS
"""How many numbers such a run may have for one image: few of them are run."""


def richer(case: Case) -> Iterator[Case]:
    """The same inputs, of more cells; then the inputs of the same layouts that are richest, each of as many."""
    yield from _sized(case, case.inputs)
    others = [] if case.tried is None else [one for one in case.tried.accepted if _is_richer(one, case.inputs)]
    if others:
        chosen = (max(others, key=lambda one: _riches(one)[turn:] + _riches(one)[:turn]) for turn in range(3))
        for inputs in dict.fromkeys(chosen):
            yield from _sized(case, inputs)


def _sized(case: Case, inputs: Inputs) -> Iterator[Case]:
    outcome = case.subject.outcome(inputs)
    sizes = sizes_of(inputs, outcome) if isinstance(outcome, Promise) else None
    if sizes is None or not isinstance(outcome, Promise):
        return
    coarsest = max([1, *(ceil(f.stride) for f in inputs.edges if f.stride)])
    for rows, columns in CELLS:
        size = sizes.nearest(rows * coarsest, columns * coarsest)
        if size is not None and _is_small((*inputs.edges, *outcome.features), *size):
            yield evolve(case, inputs=inputs, outcome=outcome, batch=2, height=size[0], width=size[1])
            return


def _is_small(features: Features, height: int, width: int) -> bool:
    numbers = [prod(f.shape(1, height, width)) for f in features]
    cells = max(number // f.channels for number, f in zip(numbers, features, strict=True))
    return sum(numbers) <= MOST_RICH and cells <= MOST_CELLS


def _is_richer(one: Inputs, than: Inputs) -> bool:
    """Whether every input has the other's layout and prefix, and no less of anything."""
    if one == than or [name for name, _ in one.named] != [name for name, _ in than.named]:
        return False
    if len(one.all) != len(than.all) or not all(map(_are_alike, one.all, than.all)):
        return False
    return all(mine >= theirs for mine, theirs in zip(_riches(one), _riches(than), strict=True))


def _are_alike(one: Features, other: Features) -> bool:
    return {(f.axes, f.prefix) for f in one} == {(f.axes, f.prefix) for f in other}


def _riches(inputs: Inputs) -> tuple[int, ...]:
    """Levels, frames and channels, of the input that has fewest of each."""
    levels = min(map(len, inputs.all))
    return levels, min(f.frames for f in inputs.edges), min(f.channels for f in inputs.edges)
