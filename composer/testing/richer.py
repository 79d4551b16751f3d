"""What a run shows nothing of, others may: the same on a larger image, and inputs of more levels, frames and channels.

Over one cell, one level, one frame or one channel a softmax and a norm are constant, and no gradient passes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, prod

from attrs import evolve

from composer.contracts import Outputs
from composer.feature import Features
from composer.testing.cases import MAX_ELEMENTS, Case
from composer.testing.inputs import Inputs
from composer.testing.subjects import find_valid_sizes

COARSEST_GRIDS = ((4, 5), (2, 3))
"""How many cells the coarsest level has; the first for which the finest has few enough."""

MAX_ENLARGED_CELLS = 2048
"""Cells of the finest level: attention over them is in the square of that."""

MAX_ENLARGED_ELEMENTS = 40 * MAX_ELEMENTS
"""How many numbers such a run may have for one image: few of them are run."""


def generate_enlarged_cases(case: Case) -> Iterator[Case]:
    """The same inputs, of more cells; then the inputs of the same layouts that are richest, each of as many."""
    yield from _generate_sized_case(case, case.inputs)
    others = [] if case.tried is None else [one for one in case.tried.accepted if _is_richer(one, case.inputs)]
    if others:
        chosen = (
            max(others, key=lambda one: _measure_inputs(one)[turn:] + _measure_inputs(one)[:turn]) for turn in range(3)
        )
        for inputs in dict.fromkeys(chosen):
            yield from _generate_sized_case(case, inputs)


def _generate_sized_case(case: Case, inputs: Inputs) -> Iterator[Case]:
    outcome = case.subject.outcome(inputs)
    sizes = find_valid_sizes(inputs, outcome) if isinstance(outcome, Outputs) else None
    if sizes is None or not isinstance(outcome, Outputs):
        return
    coarsest = max([1, *(ceil(f.stride) for f in inputs.edges if f.stride)])
    for rows, columns in COARSEST_GRIDS:
        size = sizes.compute_padded_size(rows * coarsest, columns * coarsest)
        if size is not None and _is_small((*inputs.edges, *outcome.features), *size):
            yield evolve(case, inputs=inputs, outcome=outcome, batch=2, height=size[0], width=size[1])
            return


def _is_small(features: Features, height: int, width: int) -> bool:
    numbers = [prod(f.shape(1, height, width)) for f in features]
    cells = max(number // f.channels for number, f in zip(numbers, features, strict=True))
    return sum(numbers) <= MAX_ENLARGED_ELEMENTS and cells <= MAX_ENLARGED_CELLS


def _is_richer(one: Inputs, than: Inputs) -> bool:
    """Whether every input has the other's layout and prefix, and no less of anything."""
    if one == than or [name for name, _ in one.named] != [name for name, _ in than.named]:
        return False
    if len(one.all) != len(than.all) or not all(map(_are_layouts_equal, one.all, than.all)):
        return False
    return all(mine >= theirs for mine, theirs in zip(_measure_inputs(one), _measure_inputs(than), strict=True))


def _are_layouts_equal(one: Features, other: Features) -> bool:
    return {(f.axes, f.prefix) for f in one} == {(f.axes, f.prefix) for f in other}


def _measure_inputs(inputs: Inputs) -> tuple[int, ...]:
    """Levels, frames and channels, of the input that has fewest of each."""
    levels = min(map(len, inputs.all))
    return levels, min(f.frames for f in inputs.edges), min(f.channels for f in inputs.edges)
