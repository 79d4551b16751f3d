"""The runs that a law checks: inputs that a part accepts or rejects, sizes of images and batches."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, prod
from typing import Any

from attrs import evolve, frozen
from hypothesis import strategies as st

from composer.layouts import Feature, Rounding
from composer.parts import Part
from composer.parts.rules import Outputs, Rejection, compute_implied_sizes
from composer.sizes import Conflict, SizeConstraint, intersect
from composer.testing.inputs import Inputs, Size, find_unambiguous_size, iter_candidate_inputs
from composer.testing.modules import PlainNeck, iter_plain_neck_inputs
from composer.testing.runs import Run, infer_outcome

MAX_ELEMENTS = 30_000
"""Numbers in the inputs and outputs of one image, at the smallest size that its inputs allow."""

MAX_SPARE_ELEMENTS = 8_000
"""Numbers of one image at larger sizes: bugs show with few, and time grows with them."""

ENLARGED_CELLS = (3, 4)
"""Cells a side of the coarsest level of a larger image."""

EXACT: tuple[Rounding, int] = ("exact", 0)

GRID_ROUNDINGS = st.sampled_from((*[EXACT] * 4, ("floor", 0), ("floor", 5), ("ceil", 0), ("ceil", 0)))
"""Rounding and offset of the grids of a run."""

BATCH_SIZES = st.sampled_from((1, 2, 3, 2, 3, 1, 2, 3, 4, 5))

SPARE_CELLS = st.integers(0, 4)

REJECTED_BATCH_SIZE = 3


@frozen(repr=False)
class Subject:
    """A part with the smallest run of each of its inputs: those that it accepts, and those that its contract rejects.

    `reason` is why the first of the others is not accepted.
    """

    part: Part
    accepted: tuple[Run, ...]
    rejected: tuple[Run, ...]
    summary: str
    reason: str

    def _repr_pretty_(self, printer: Any, _: bool) -> None:  # noqa: FBT001, Hypothesis prints arguments by it
        printer.text(f"<{self.part!r} {self.summary}>")


def build_subject(part: Part, chosen: Iterable[Inputs] | None) -> Subject:
    """Try a part with chosen inputs, or with all candidates. Large inputs are left out if there are smaller ones.

    Raises ContractUncheckable if the contract raises.
    """
    if chosen is None:
        chosen = iter_plain_neck_inputs(part) if isinstance(part, PlainNeck) else iter_candidate_inputs(part)
    results = [(inputs, infer_outcome(part, inputs)) for inputs in chosen]
    rejected = [(inputs, outcome) for inputs, outcome in results if isinstance(outcome, Rejection)]
    accepted = [run for inputs, outcome in results if (run := _build_smallest_run(part, inputs, outcome))]
    forced = [run for inputs, outcome in rejected if (run := _build_forced_run(part, inputs, outcome))]
    reason = f"it {rejected[0][1].expected}" if rejected else "no image size fits"
    summary = f"accepted {len(accepted)} of {len(results)} inputs"
    summary += f"; not {rejected[0][0]} ({reason})" if rejected else ""
    return Subject(part, _drop_large(accepted, MAX_ELEMENTS), _drop_large(forced, MAX_SPARE_ELEMENTS), summary, reason)


def _build_smallest_run(part: Part, inputs: Inputs, outcome: Outputs | Rejection) -> Run | None:
    """Return one image of the smallest size; None if inputs are rejected or no size fits."""
    sizes = None if isinstance(outcome, Rejection) else _find_sizes(inputs, outcome)
    size = None if sizes is None else sizes.compute_padded_size(1, 1)
    return None if size is None else Run(part, inputs, outcome, 1, size)


def _find_sizes(inputs: Inputs, outputs: Outputs) -> SizeConstraint | None:
    edges = (*inputs.edges, *outputs.features)
    sizes = intersect([("part", outputs.sizes), *(("edge", compute_implied_sizes(f)) for f in edges)])
    return None if isinstance(sizes, Conflict) else sizes


def _build_forced_run(part: Part, inputs: Inputs, rejection: Rejection) -> Run | None:
    """Return a run that shows whether a rejection is real; None if its kind, or its axes, do not show that."""
    size = None if rejection.kind == "wrong_output" else find_unambiguous_size(inputs.edges)
    return None if size is None else Run(part, inputs, rejection, REJECTED_BATCH_SIZE, size)


def _drop_large(runs: Iterable[Run], most: int) -> tuple[Run, ...]:
    counted = [(run, _count_elements(run, run.size)) for run in runs]
    most = max(most, min((count for _, count in counted), default=0))
    return tuple(run for run, count in counted if count <= most)


def _count_elements(run: Run, size: Size) -> int:
    """Return the numbers in the inputs and the promised outputs of one image."""
    outputs = run.outcome.features if isinstance(run.outcome, Outputs) else ()
    return sum(prod(f.shape(1, *size)) for f in (*run.inputs.edges, *outputs))


@st.composite
def generate_forced_runs(draw: st.DrawFn, subject: Subject) -> Run:
    """Draw runs with inputs that a subject rejects."""
    # An index, because Hypothesis prints all elements that it samples from.
    return subject.rejected[draw(st.integers(0, len(subject.rejected) - 1))]


@st.composite
def generate_runs(draw: st.DrawFn, subject: Subject) -> Run:
    """Draw runs with inputs that a subject accepts. Grids are rounded in some of them, if it accepts that."""
    smallest = _round_grids(subject.accepted[draw(st.integers(0, len(subject.accepted) - 1))], *draw(GRID_ROUNDINGS))
    sizes = _find_sizes(smallest.inputs, smallest.outputs)
    assert sizes is not None
    rows, columns = (side + draw(SPARE_CELLS) * sizes.multiple for side in smallest.size)
    size = sizes.compute_padded_size(rows, columns)
    if size is None or _count_elements(smallest, size) > MAX_SPARE_ELEMENTS:
        size = smallest.size
    batch = min(draw(BATCH_SIZES), max(2, MAX_ELEMENTS // _count_elements(smallest, size)))
    return evolve(smallest, batch=batch, size=size, accepted=subject.accepted)


def _round_grids(run: Run, rounding: Rounding, offset: int) -> Run:
    """Return a run whose grids are rounded; the same run if the part does not accept that, or only large images."""

    def round_grid(feature: Feature) -> Feature:
        return feature if feature.stride in (None, 1) else evolve(feature, rounding=rounding, offset=offset)

    inputs = run.inputs.map_features(round_grid)
    rounded = None if inputs == run.inputs else _build_smallest_run(run.part, inputs, infer_outcome(run.part, inputs))
    is_small = rounded is not None and _count_elements(rounded, rounded.size) <= MAX_ELEMENTS
    return rounded if rounded is not None and is_small else run


def enlarge_run(run: Run) -> Run:
    """Return a run with a larger image, of the same layout with the most levels, frames and channels.

    Over one cell, level, frame or channel, a softmax or a norm is constant and has no gradient.
    """
    alike = [other for other in run.accepted if _list_layouts(other.inputs) == _list_layouts(run.inputs)]
    richest = max(alike, key=_measure_inputs)
    sizes = _find_sizes(richest.inputs, richest.outputs)
    assert sizes is not None
    coarsest = max([1, *(ceil(f.stride) for f in richest.inputs.edges if f.stride)])
    size = sizes.compute_padded_size(*(count * coarsest for count in ENLARGED_CELLS))
    return evolve(richest, batch=4, size=size or richest.size)


def _list_layouts(inputs: Inputs) -> list[set[tuple[str, int]]]:
    return [{(f.axes, f.prefix) for f in features} for features in inputs.all]


def _measure_inputs(run: Run) -> tuple[int, ...]:
    inputs = run.inputs
    return min(map(len, inputs.all)), min(f.frames for f in inputs.edges), min(f.channels for f in inputs.edges)
