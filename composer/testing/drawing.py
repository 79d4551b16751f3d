"""The runs that a law checks: inputs that a part accepts or rejects, sizes of images and batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil
from typing import Any

from attrs import evolve, frozen
from hypothesis import strategies as st

from composer.parts import Part
from composer.parts.rules import Outputs, Rejection
from composer.sizes import SizeConstraint
from composer.testing.inputs import Inputs, find_unambiguous_size, iter_candidate_inputs
from composer.testing.plain_necks import PlainNeck, iter_plain_neck_inputs
from composer.testing.runs import Run, infer_outcome

MAX_ELEMENTS = 30_000
"""Numbers in the inputs and outputs of one image, at the smallest size that its inputs allow."""

MAX_SPARE_ELEMENTS = 8_000
"""Numbers of one image at larger sizes: bugs show with few, and time grows with them."""

ENLARGED_CELLS = (3, 4)
"""Cells a side of the coarsest level of a larger image."""

GRID_CHANGES: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    (
        *[{}] * 4,
        {"rounding": "floor"},
        {"rounding": "floor", "offset": 5},
        *[{"rounding": "ceil"}] * 2,
    )
)
"""Rounding and offset of the grids of a run; usually as they are."""

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


def build_subject(part: Part, chosen: Iterable[Inputs] = ()) -> Subject:
    """Try a part with chosen inputs, or with all candidates. Large inputs are left out if there are smaller ones.

    Raises ContractUncheckable if the contract raises.
    """
    candidates = iter_plain_neck_inputs(part) if isinstance(part, PlainNeck) else iter_candidate_inputs(part)
    results = [(inputs, infer_outcome(part, inputs)) for inputs in chosen or candidates]
    rejected = [(inputs, outcome) for inputs, outcome in results if isinstance(outcome, Rejection)]
    accepted = [run for inputs, outcome in results if (run := _build_smallest_run(part, inputs, outcome))]
    forced = [run for inputs, outcome in rejected if (run := _build_forced_run(part, inputs, outcome))]
    reason = f"it {rejected[0][1].expected}" if rejected else "no image size fits"
    summary = f"accepted {len(accepted)} of {len(results)} inputs"
    summary += f"; not {rejected[0][0]} ({reason})" if rejected else ""
    return Subject(part, _drop_large(accepted, MAX_ELEMENTS), _drop_large(forced, MAX_SPARE_ELEMENTS), summary, reason)


def _build_smallest_run(part: Part, inputs: Inputs, outcome: Outputs | Rejection) -> Run | None:
    """Return one image of the smallest size; None if inputs are rejected or no size fits."""
    return None if isinstance(outcome, Rejection) else Run(part, inputs, outcome, 1, (1, 1)).resize(1, 1)


def _build_forced_run(part: Part, inputs: Inputs, rejection: Rejection) -> Run | None:
    """Return a run that shows whether a rejection is real; None if its kind, or its axes, do not show that."""
    size = None if rejection.kind == "wrong_output" else find_unambiguous_size(inputs.edges)
    return None if size is None else Run(part, inputs, rejection, REJECTED_BATCH_SIZE, size)


def _drop_large(runs: Iterable[Run], most: int) -> tuple[Run, ...]:
    counted = [(run, run.count_elements()) for run in runs]
    most = max(most, min((count for _, count in counted), default=0))
    return tuple(run for run, count in counted if count <= most)


def sample_runs(runs: Sequence[Run]) -> st.SearchStrategy[Run]:
    """Draw one of these runs, by its index, because Hypothesis prints all elements that it samples from."""
    return st.integers(0, len(runs) - 1).map(lambda index: runs[index])


@st.composite
def generate_runs(draw: st.DrawFn, subject: Subject) -> Run:
    """Draw runs with inputs that a subject accepts. Grids are rounded in some of them, if it accepts that."""
    smallest = _round_grids(draw(sample_runs(subject.accepted)), draw(GRID_CHANGES))
    sizes = smallest.sizes
    assert isinstance(sizes, SizeConstraint)
    larger = smallest.resize(*(side + draw(SPARE_CELLS) * sizes.multiple for side in smallest.size))
    run = larger if larger and larger.count_elements() <= MAX_SPARE_ELEMENTS else smallest
    batch = min(draw(BATCH_SIZES), max(2, MAX_ELEMENTS // run.count_elements()))
    return evolve(run, batch=batch, accepted=subject.accepted)


def _round_grids(run: Run, changes: dict[str, Any]) -> Run:
    """Return a run whose grids are rounded; the same run if the part does not accept that, or only large images."""
    inputs = run.inputs.map_features(lambda f: f if f.stride in (None, 1) else evolve(f, **changes))
    if inputs == run.inputs:
        return run
    rounded = _build_smallest_run(run.part, inputs, infer_outcome(run.part, inputs))
    return rounded if rounded and rounded.count_elements() <= MAX_ELEMENTS else run


def enlarge_run(run: Run) -> Run:
    """Return a run with a larger image, of the same layout with the most levels, frames and channels.

    Over one cell, level, frame or channel, a softmax or a norm is constant and has no gradient.
    """
    alike = [other for other in run.accepted if _list_layouts(other.inputs) == _list_layouts(run.inputs)]
    richest = evolve(max(alike, key=_measure_inputs), batch=4)
    coarsest = max([1, *(ceil(f.stride) for f in richest.inputs.edges if f.stride)])
    return richest.resize(*(count * coarsest for count in ENLARGED_CELLS)) or richest


def _list_layouts(inputs: Inputs) -> list[set[tuple[str, int]]]:
    return [{(f.axes, f.prefix) for f in features} for features in inputs.all]


def _measure_inputs(run: Run) -> tuple[int, ...]:
    edges = run.inputs.edges
    return len(edges), min(f.frames for f in edges), min(f.channels for f in edges)
