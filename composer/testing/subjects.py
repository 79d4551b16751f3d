"""The subjects of the laws: a part or a plain neck, its inputs, and the runs that are drawn of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from math import ceil
from typing import Any

import torch
from attrs import evolve, field, frozen
from hypothesis import strategies as st
from torch import nn

from composer.layouts import MAP, TOKENS, Feature, Features
from composer.modules.base import module
from composer.parts import Neck, Part
from composer.parts.base import contract
from composer.parts.rules import Outputs, Rejection, compute_min_cells
from composer.sizes import SizeConstraint
from composer.testing.failures import format_error
from composer.testing.inputs import Inputs, find_unambiguous_size, iter_candidate_inputs, list_stacks
from composer.testing.runs import Run, build_seeded, infer_outcome

# --- plain necks in TerraTorch's style, whose contract is found by running them

BUG_ERRORS = (IndexError, NameError, AttributeError)
"""Errors that show a bug, rather than inputs of another kind."""


def is_plain_neck(thing: object) -> bool:
    """Return whether something is a neck in TerraTorch's style, or its class."""
    cls = thing if isinstance(thing, type) else type(thing)
    return issubclass(cls, nn.Module) and callable(getattr(cls, "process_channel_list", None))


@frozen(eq=False, repr=False)
class PlainNeck(Neck):
    """A neck `cls(channel_list, …)`, `process_channel_list(channel_list)`, `forward(features)`, or its class.

    Its contract is the number of outputs and their channels: axis 1 of maps and vectors, the last axis of tokens.
    Heights and widths are not part of it. Which inputs it accepts is found by running it on two images that are not
    square. `least` is the smallest number of cells a side of its inputs.
    """

    neck: type[nn.Module] | nn.Module
    arguments: Mapping[str, Any] = field(factory=dict)
    least: int = 1

    def __repr__(self) -> str:
        cls = self.neck if isinstance(self.neck, type) else type(self.neck)
        return f"{cls.__name__}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"


def iter_plain_neck_inputs(plain: PlainNeck) -> Iterator[Inputs]:
    """Yield maps and tokens; for a module, only those with its `channel_list`."""
    widths = () if isinstance(plain.neck, type) else getattr(plain.neck, "channel_list", ())
    for features in (*list_stacks(MAP, "flat", "pyramid"), *list_stacks(TOKENS, "flat", "pyramid")):
        if features[0].channels == 1 or features[0].frames > 1:
            continue
        if not widths:
            yield Inputs((features,))
        elif len(widths) == len(features):
            yield Inputs((tuple(evolve(f, channels=c) for f, c in zip(features, widths, strict=True)),))


@contract.register(PlainNeck)
def _(plain: PlainNeck, features: Features) -> Outputs | Rejection:
    result = _find_result(plain, tuple(evolve(f, rounding="exact", offset=0) for f in features))
    return result if isinstance(result, Rejection) else evolve(result, sizes=_compute_sizes(plain, features))


@module.register(PlainNeck)
def _(plain: PlainNeck, features: Features) -> nn.Module:
    """Build the class for the channels of the inputs, or copy the module, because laws change it."""
    if isinstance(plain.neck, nn.Module):
        return deepcopy(plain.neck)
    return plain.neck([f.channels for f in features], **plain.arguments)


def _compute_sizes(plain: PlainNeck, features: Features) -> SizeConstraint:
    least = [compute_min_cells(feature, plain.least).least for feature in features if feature.stride is not None]
    return SizeConstraint(least=max([1, *least]))


@lru_cache
def _find_result(plain: PlainNeck, features: Features) -> Outputs | Rejection:
    """Run two images of zeros. A neck that accepts one level, and has a bug for two equal ones, should accept them."""
    outputs = Outputs(features=())
    least = _compute_sizes(plain, features).least
    size = find_unambiguous_size(features, least) or (least, least)
    try:
        network = build_seeded(lambda: module(plain, features))
        counts = network.process_channel_list([f.channels for f in features])  # type: ignore[operator]
        outputs = Outputs(features=[Feature(channels=count, axes="b c", stride=None) for count in counts])
        zeros = [torch.zeros(f.shape(2, *size)) for f in features]
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            results = Run(plain, Inputs((features,)), outputs, 2, size).forward(network, [zeros])
        if features[0].axes == TOKENS and all(len(x) != 2 for x in results if x.dim()):
            raise ValueError("the first axis of its output is not the batch of its tokens")
    except Exception as error:  # a module may raise anything for inputs of another kind
        is_bug = isinstance(error, BUG_ERRORS) and len(features) == 2 and features[0] == features[1]
        if not is_bug or not outputs.features or isinstance(contract(plain, features[:1]), Rejection):
            return Rejection(code="inputs", kind="wrong_output", expected=f"raises {format_error(error)}")
    return outputs


# --- subjects and their runs

MAX_ELEMENTS = 30_000
"""Numbers in the inputs and outputs of one image, at the smallest size that its inputs allow."""

MAX_SPARE_ELEMENTS = 8_000
"""Numbers of one image at larger sizes: bugs show with few, and time grows with them."""

ENLARGED_CELLS = (3, 4)
"""Cells a side of the coarsest level of a larger image."""

FIXED_BATCH_SIZE = 4
"""Images of a larger run, and of rejected inputs."""

GRID_CHANGES: tuple[dict[str, Any], ...] = (
    {},
    {"rounding": "floor"},
    {"rounding": "floor", "offset": 5},
    {"rounding": "ceil"},
)
"""Rounding and offset of the grids of a run."""

SPARE_CELLS = st.integers(0, 4)

BATCH_SIZES = st.integers(1, 5)


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
    return Subject(part, _drop_large(accepted), _drop_large(forced), summary, reason)


def _build_smallest_run(part: Part, inputs: Inputs, outcome: Outputs | Rejection) -> Run | None:
    """Return one image of the smallest size; None if inputs are rejected or no size fits."""
    return None if isinstance(outcome, Rejection) else Run(part, inputs, outcome, 1, (1, 1)).resize(1, 1)


def _build_forced_run(part: Part, inputs: Inputs, rejection: Rejection) -> Run | None:
    """Return a run that shows whether a rejection is real; None if its kind, or its axes, do not show that."""
    size = None if rejection.kind == "wrong_output" else find_unambiguous_size(inputs.edges)
    return None if size is None else Run(part, inputs, rejection, FIXED_BATCH_SIZE, size)


def _drop_large(runs: Iterable[Run]) -> tuple[Run, ...]:
    counted = [(run, run.count_elements()) for run in runs]
    most = max(MAX_ELEMENTS, min((count for _, count in counted), default=0))
    return tuple(run for run, count in counted if count <= most)


def sample_runs(runs: Sequence[Run]) -> st.SearchStrategy[Run]:
    """Draw one of these runs, by its index, because Hypothesis prints all elements that it samples from."""
    return st.integers(0, len(runs) - 1).map(lambda index: runs[index])


@st.composite
def generate_runs(draw: st.DrawFn, subject: Subject) -> Run:
    """Draw runs with inputs that a subject accepts. Grids are rounded in some of them, if it accepts that."""
    smallest = _round_grids(draw(sample_runs(subject.accepted)), draw(st.sampled_from(GRID_CHANGES)))
    sizes = smallest.sizes
    assert isinstance(sizes, SizeConstraint)
    larger = smallest.resize(*(side + draw(SPARE_CELLS) * sizes.multiple for side in smallest.size))
    run = larger if larger and larger.count_elements() <= MAX_SPARE_ELEMENTS else smallest
    batch = min(draw(BATCH_SIZES), max(2, MAX_ELEMENTS // run.count_elements()))
    return evolve(run, batch=batch)


def _round_grids(run: Run, changes: dict[str, Any]) -> Run:
    """Return a run whose grids are rounded; the same run if the part does not accept that, or only large images."""
    inputs = run.inputs.map_features(lambda f: f if f.stride in (None, 1) else evolve(f, **changes))
    if inputs == run.inputs:
        return run
    rounded = _build_smallest_run(run.part, inputs, infer_outcome(run.part, inputs))
    return rounded if rounded and rounded.count_elements() <= MAX_ELEMENTS else run


def list_enlarged_runs(runs: Iterable[Run]) -> list[Run]:
    """Return for each layout the run with the most levels, frames and channels, with a larger image and batch.

    Over one cell, level, frame or channel, a softmax or a norm is constant and has no gradient.
    """
    richest: dict[Any, Run] = {}
    for run in runs:
        layout = tuple(frozenset((f.axes, f.prefix) for f in features) for features in run.inputs.all)
        richest[layout] = max(richest.get(layout, run), run, key=_measure_inputs)
    return [_enlarge(run) for run in richest.values()]


def _measure_inputs(run: Run) -> tuple[int, ...]:
    edges = run.inputs.edges
    return len(edges), min(f.frames for f in edges), min(f.channels for f in edges)


def _enlarge(run: Run) -> Run:
    coarsest = max([1, *(ceil(f.stride) for f in run.inputs.edges if f.stride)])
    larger = evolve(run, batch=FIXED_BATCH_SIZE)
    return larger.resize(*(count * coarsest for count in ENLARGED_CELLS)) or larger
