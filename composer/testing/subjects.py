"""The subjects of the laws: a part or a plain neck, the inputs to try it with, and the runs that are drawn of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from inspect import Parameter, signature
from itertools import product
from math import ceil
from typing import Any

import torch
from attrs import evolve, field, frozen
from hypothesis import strategies as st
from torch import nn

from composer.layouts import MAP, TOKENS, Feature, Features, Image
from composer.modules.base import module
from composer.parts import Encoder, Neck, Part, ProbedEncoder
from composer.parts.base import contract
from composer.parts.rules import Outputs, Rejection, compute_exact_multiple, compute_min_cells
from composer.sizes import SizeConstraint
from composer.testing.failures import format_error
from composer.testing.runs import Inputs, Run, infer_run, seed_torch
from composer.testing.strategies import CHANNELS, LAYOUTS, MAX_PYRAMID_LEVELS, SHAPES, list_strides

# --- the inputs that a part is tried with

WIDTHS = (
    (11, 13, 17, 19, 23),
    (11,) * MAX_PYRAMID_LEVELS,
    (32,) * MAX_PYRAMID_LEVELS,
    (8, 16, 32, 64, 128),
    (1,) * MAX_PYRAMID_LEVELS,
)
"""Channels of the levels: different primes, equal, equal and even, growing, and 1."""

IMAGE_CHANNELS = (3, 1, 2, 6, 12, 4, 5, 7, 10, 13)

PROBE_CELLS = (3, 5)
"""Rows and columns of the coarsest level where it is tried whether a module runs at all.

No width is a multiple of them by a power of two, so a module that takes rows for channels does not run.
"""


def compute_probe_size(features: Features, least: int = 1) -> tuple[int, int]:
    """Return the smallest exact image of at least `PROBE_CELLS`; larger ones by what `least` pixels take beyond 1."""
    exact = compute_exact_multiple(*features)
    spare = ceil(max(exact.least, least) / exact.multiple) - 1
    rows, columns = (exact.multiple * (cells + spare) for cells in PROBE_CELLS)
    return rows, columns


def iter_candidate_inputs(part: Part) -> Iterator[Inputs]:
    """Yield the inputs to try a part with, simple ones first: a tuple of features for each input of its contract.

    Encoders get images, also at half the resolution; several by name, if the contract has names for them.
    """
    singles = [features for axes in LAYOUTS for features in iter_stacks(axes, *SHAPES)]
    other_widths: Sequence[int] = CHANNELS[-1:]
    if isinstance(part, Encoder):
        declared = [getattr(part, name, None) for name in ("channels", "frames")]
        channels, frames = ([value] if isinstance(value, int) else [] for value in declared)
        other_widths = tuple(dict.fromkeys((*channels, *IMAGE_CHANNELS)))
        frame_counts = dict.fromkeys((None, *frames, 3, 1, 2, 4))
        images = product((1, 2), other_widths, frame_counts)
        singles = [(Image(channels=count, frames=some, stride=stride).feature,) for stride, count, some in images]
    for (count, names), features in product(_list_input_slots(type(part)), singles):
        for inputs in _iter_variants(features, count + len(names), other_widths):
            yield Inputs(inputs[:count], dict(zip(names, inputs[count:], strict=True)))


def _list_input_slots(part_class: type[Part]) -> list[tuple[int, tuple[str, ...]]]:
    """Return how many inputs a contract takes by position, and their names; two if it takes any number."""
    if issubclass(part_class, ProbedEncoder):
        return [(1, ())]
    parameters = list(signature(contract.dispatch(part_class)).parameters.values())[1:]
    kinds = [p.kind for p in parameters]
    count = sum(kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds)
    count = max(2, count) if Parameter.VAR_POSITIONAL in kinds else count
    names = tuple(p.name for p in parameters if p.kind is Parameter.KEYWORD_ONLY)
    choices = [names, (*names, "first", "second")] if Parameter.VAR_KEYWORD in kinds else [names]
    return [(count, names) for names in choices if count or names]


def iter_stacks(axes: str, *shapes: str) -> Iterator[Features]:
    """Yield outputs of encoders and necks in one layout: single features, and stacks of these shapes of strides."""
    is_grid = bool({"h", "n"} & set(axes))
    prefixes = (0, 1, 5) if "n" in axes else (0,)
    frame_counts = (1, 3) if {"t", "n"} & set(axes) else (1,)
    for count, widths, prefix, frames in product((1, 4, 2, 3, 5), WIDTHS, prefixes, frame_counts):
        is_varied = is_grid and count > 1 and not prefix and frames == 1
        for shape in shapes if is_varied else ("flat",):
            strides = list_strides(shape, count, 1 if count == MAX_PYRAMID_LEVELS else 2)
            yield tuple(
                Feature(channels=channels, stride=stride if is_grid else None, axes=axes, prefix=prefix, frames=frames)
                for channels, stride in zip(widths, strides, strict=False)
            )


def _iter_variants(features: Features, count: int, widths: Sequence[int]) -> Iterator[tuple[Features, ...]]:
    """Yield `count` equal inputs; then each of these widths, and other strides, in the last one."""
    first = (features,) * (count - 1)
    yield (*first, features)
    if first:
        for channels in widths:
            yield (*first, tuple(evolve(f, channels=channels) for f in features))
        if all(f.stride is not None for f in features):
            yield (*first, tuple(evolve(f, stride=f.stride * 2) for f in features if f.stride is not None))


# --- plain necks in TerraTorch's style, whose contract is found by running them


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
    for features in (*iter_stacks(MAP, "flat", "pyramid"), *iter_stacks(TOKENS, "flat", "pyramid")):
        counts = widths or [f.channels for f in features]
        if features[0].channels > 1 and features[0].frames == 1 and len(counts) == len(features):
            yield Inputs((tuple(evolve(f, channels=c) for f, c in zip(features, counts, strict=True)),))


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
    """Run two images. A neck that accepts one level, and has a bug for two equal ones, should accept them."""
    outputs = Outputs(features=())
    size = compute_probe_size(features, _compute_sizes(plain, features).least)
    run = Run(plain, Inputs((features,)), outputs, batch=2, size=size)
    try:
        with torch.no_grad(), seed_torch():
            network = run.make()
            counts = network.process_channel_list([f.channels for f in features])  # type: ignore[operator]
            outputs = Outputs(features=[Feature(channels=count, axes="b c", stride=None) for count in counts])
            results = run.forward(network, run.draw_tensors())
        if features[0].axes == TOKENS and all(len(x) != 2 for x in results if x.dim()):
            raise ValueError("the first axis of its output is not the batch of its tokens")
    except Exception as error:  # a module may raise anything for inputs of another kind
        is_bug = isinstance(error, IndexError | NameError | AttributeError)
        is_equal = len(features) == 2 and features[0] == features[1]
        if not (is_bug and is_equal and outputs.features) or isinstance(contract(plain, features[:1]), Rejection):
            return Rejection(code="inputs", kind="wrong_output", expected=f"raises {format_error(error)}")
    return outputs


# --- subjects and their runs

MAX_ELEMENTS = 30_000
"""Numbers in the inputs and outputs of one image, at the smallest size that its inputs allow."""

MAX_SPARE_ELEMENTS = 8_000
"""Numbers of one image at larger sizes: bugs show with few, and time grows with them."""

FIXED_BATCH_SIZE = 4
"""Images of a larger run, and of rejected inputs."""

GRID_CHANGES: tuple[dict[str, Any], ...] = (
    {},
    {"rounding": "floor"},
    {"rounding": "floor", "offset": 5},
    {"rounding": "ceil"},
)
"""Rounding and offset of the grids of a run."""


@frozen(repr=False)
class Subject:
    """A part with the smallest run of each of its inputs: those that it accepts, and those that it rejects."""

    part: Part
    accepted: tuple[Run, ...]
    rejected: tuple[Run, ...]
    summary: str


def build_subject(part: Part, chosen: Iterable[Inputs] = ()) -> Subject:
    """Try a part with chosen inputs, or with all candidates. Large inputs are left out if there are smaller ones.

    Raises ContractUncheckable if the contract raises.
    """
    candidates = iter_plain_neck_inputs(part) if isinstance(part, PlainNeck) else iter_candidate_inputs(part)
    runs = [infer_run(part, inputs) for inputs in chosen or candidates]
    accepted = [smallest for run in runs if (smallest := run.resize(1, 1))]
    rejected = [(run, run.rejection) for run in runs if run.rejection]
    forced = [
        evolve(run, batch=FIXED_BATCH_SIZE, size=compute_probe_size(run.inputs.edges))
        for run, rejection in rejected
        # With as many frames as channels a module may run because it takes one for the other.
        if rejection.kind != "wrong_output"
        and all("t" not in f.axes or f.frames != f.channels for f in run.inputs.edges)
    ]
    reason = f"; not {rejected[0][0].inputs} (it {rejected[0][1].expected})" if rejected else ""
    summary = f"accepted {len(accepted)} of {len(runs)} inputs{reason}"
    return Subject(part, _drop_large(accepted), _drop_large(forced), summary)


def _drop_large(runs: Iterable[Run]) -> tuple[Run, ...]:
    counted = [(run, run.count_elements()) for run in runs]
    most = max(MAX_ELEMENTS, min((count for _, count in counted), default=0))
    return tuple(run for run, count in counted if count <= most)


def sample_runs(runs: Sequence[Run]) -> st.SearchStrategy[Run]:
    """Draw one of these runs, by its index, because Hypothesis prints all elements that it samples from."""
    return st.integers(0, len(runs) - 1).map(lambda index: runs[index])


def generate_runs(runs: Sequence[Run]) -> st.SearchStrategy[Run]:
    """Draw one of these runs with a larger batch, perhaps a larger size, and rounded grids if the part accepts them."""
    changes, spare = st.sampled_from(GRID_CHANGES), st.integers(0, 4)
    return st.builds(_vary_run, sample_runs(runs), changes, spare, spare, st.integers(1, 5))


def _vary_run(run: Run, changes: dict[str, Any], rows: int, columns: int, batch: int) -> Run:
    smallest = _round_grids(run, changes)
    sizes = smallest.sizes
    assert isinstance(sizes, SizeConstraint)
    height, width = smallest.size
    larger = smallest.resize(height + rows * sizes.multiple, width + columns * sizes.multiple)
    chosen = larger if larger and larger.count_elements() <= MAX_SPARE_ELEMENTS else smallest
    return evolve(chosen, batch=min(batch, max(2, MAX_ELEMENTS // chosen.count_elements())))


def _round_grids(run: Run, changes: dict[str, Any]) -> Run:
    """Return a run whose grids are rounded; the same run if the part does not accept that, or only large images."""
    inputs = run.inputs.map_features(lambda f: f if f.stride in (None, 1) else evolve(f, **changes))
    if inputs == run.inputs or isinstance(run.part, Encoder):  # images are exact
        return run
    rounded = infer_run(run.part, inputs).resize(1, 1)
    return rounded if rounded and rounded.count_elements() <= MAX_ELEMENTS else run


def list_enlarged_runs(runs: Iterable[Run]) -> list[Run]:
    """Return for each layout the run with the most levels, frames and channels, with a larger image and batch.

    Over one cell, level, frame or channel, a softmax or a norm is constant and has no gradient.
    """
    richest: dict[Any, Run] = {}
    for run in sorted(runs, key=_measure_inputs, reverse=True):
        richest.setdefault(tuple(frozenset((f.axes, f.prefix) for f in features) for features in run.inputs.all), run)
    larger = [evolve(run, batch=FIXED_BATCH_SIZE) for run in richest.values()]
    strides = [max([1, *(ceil(f.stride) for f in run.inputs.edges if f.stride)]) for run in larger]
    return [run.resize(3 * stride, 4 * stride) or run for run, stride in zip(larger, strides, strict=True)]


def _measure_inputs(run: Run) -> tuple[int, ...]:
    edges = run.inputs.edges
    return len(edges), min(f.frames for f in edges), min(f.channels for f in edges)
