"""One run of a part: what it is fed, at which size, with which batch; and how that is drawn and written."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from attrs import evolve, field, frozen
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from composer.contracts import Outputs, Rejection
from composer.contracts.rules import compute_exact_multiple
from composer.feature import Features, Rounding, format_count
from composer.sizes import SizeConstraint, intersect
from composer.testing.fast import draw_in_blocks
from composer.testing.inputs import ClassifiedInputs, Inputs
from composer.testing.subjects import Subject, Tensors, find_valid_sizes, run_query

MAX_ELEMENTS = 30_000
"""How many numbers a run has at most, inputs and outputs of one image together: what is wrong is wrong with few."""

MAX_REJECTED_ELEMENTS = 5_000
"""How many inputs what is refused has, where any of it has so few: nobody says how much comes out of it."""

_EXACT: tuple[Rounding, int] = ("exact", 0)
_CEIL: tuple[Rounding, int] = ("ceil", 0)
GRID_ROUNDINGS: tuple[tuple[Rounding, int], ...] = (
    _EXACT,
    _EXACT,
    _EXACT,
    _EXACT,
    ("floor", 0),
    ("floor", 5),
    _CEIL,
    _CEIL,
)
"""How the grids of a run are rounded, with which offset: half of them not at all."""

BATCH_SIZES = (1, 2, 3, 2, 3, 1, 2, 3, 4, 5)
"""How many images a run has: mostly few, and now and then more than any that is likely to be special."""


@frozen(repr=False)
class Case:
    """A subject before inputs, for `batch` images of `height` × `width` reference pixels.

    `tried` is what else the subject takes, where it is known.
    """

    subject: Subject
    inputs: Inputs
    outcome: Outputs | Rejection
    batch: int
    height: int
    width: int
    tried: ClassifiedInputs | None = field(default=None, eq=False, repr=False)

    def module(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
        """The subject's module in eval mode, with the weights that a seed gives. The random state is kept.

        Weights that take their shapes from the first that they are fed (`nn.LazyConv2d`) are there already.
        """
        with torch.random.fork_rng(devices=[]), draw_in_blocks():
            torch.default_generator.manual_seed(seed)
            network = self.subject.make(self.inputs).eval()
            if any(map(is_lazy, (*network.parameters(), *network.buffers()))):
                self.run(network, self.tensors())
            return network.to(dtype).eval()

    def tensors(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensors:
        """Normal numbers of the inputs' shapes."""
        generator = torch.Generator().manual_seed(seed)
        return [
            [
                torch.randn(f.shape(self.batch, self.height, self.width), generator=generator, dtype=torch.float64).to(
                    dtype
                )
                for f in features
            ]
            for features in self.inputs.all
        ]

    def run(self, network: nn.Module, tensors: Tensors) -> tuple[Tensor, ...]:
        """What a module gives, without gradients."""
        with torch.no_grad():
            return self.run_with_gradients(network, tensors)

    def run_with_gradients(self, network: nn.Module, tensors: Tensors) -> tuple[Tensor, ...]:
        """What a module gives."""
        return self.subject.call(network, self.inputs, tensors, (self.height, self.width))

    def get_expected_features(self) -> Features:
        """What the subject says that it gives."""
        assert isinstance(self.outcome, Outputs)
        return self.outcome.features

    def has_expected_outputs(self, given: Sequence[Tensor]) -> bool:
        """Whether tensors are what was promised."""
        assert isinstance(self.outcome, Outputs)
        return self.subject.has_expected_outputs(given, self.outcome, self.batch, self.height, self.width)

    def __repr__(self) -> str:
        return f"<{self.subject.name} fed {self}>"

    def __str__(self) -> str:
        """What the subject is fed, as a person reads it."""
        return f"{'; '.join(self.inputs.sentences)}, of {format_count(self.batch, 'image')} of {self.height} × {self.width}"


@st.composite
def generate_cases(draw: st.DrawFn, subject: Subject, tried: ClassifiedInputs, most: int = MAX_ELEMENTS) -> Case | None:
    """Runs of a subject before inputs that it accepts, small and odd sizes first; None where no size is admitted.

    Grids are rounded in some of them, where the subject accepts those too. A run has at most `most` numbers.
    """
    inputs = _apply_rounding(draw(st.sampled_from(tried.accepted)), *draw(st.sampled_from(GRID_ROUNDINGS)))
    outcome = run_query(subject, inputs)
    sizes = find_valid_sizes(inputs, outcome) if isinstance(outcome, Outputs) else None
    if not isinstance(outcome, Outputs) or sizes is None:
        return None
    height, width = draw(_generate_sides(sizes))
    if _count_elements((*inputs.edges, *outcome.features), height, width) > most:
        return None
    return Case(subject, inputs, outcome, draw(st.sampled_from(BATCH_SIZES)), height, width, tried)


def compute_min_elements(subject: Subject, tried: ClassifiedInputs) -> int | None:
    """How many numbers the smallest run has, or less than MOST_NUMBERS; None where no size suits any inputs."""
    fewest = None
    for inputs in tried.accepted:
        outcome = subject.outcome(inputs)
        sizes = find_valid_sizes(inputs, outcome) if isinstance(outcome, Outputs) else None
        least = None if sizes is None else sizes.compute_padded_size(1, 1)
        if least is not None and isinstance(outcome, Outputs):
            numbers = _count_elements((*inputs.edges, *outcome.features), *least)
            fewest = numbers if fewest is None else min(fewest, numbers)
            if fewest <= MAX_ELEMENTS:
                break
    return fewest


def generate_rejected_cases(subject: Subject, tried: ClassifiedInputs) -> st.SearchStrategy[Case | None]:
    """Runs that a subject refuses, at sizes at which all that it is fed is whole, with cells to spare.

    They have at most FEW_NUMBERS, or MOST_NUMBERS where nothing has so few. No axis has as many entries as there are
    channels: what takes it for that of the channels runs by coincidence alone.
    """
    few = any(
        _count_elements(inputs.edges, *_get_min_size(_compute_size_constraint(inputs))) <= MAX_REJECTED_ELEMENTS
        for inputs in tried.refused
    )
    most = MAX_REJECTED_ELEMENTS if few else MAX_ELEMENTS

    @st.composite
    def draw_case(draw: st.DrawFn) -> Case | None:
        inputs = draw(st.sampled_from(tried.refused))
        outcome = subject.outcome(inputs)
        assert isinstance(outcome, Rejection)
        height, width = draw(_generate_sides(_compute_size_constraint(inputs)))
        if _count_elements(inputs.edges, height, width) > most or _has_ambiguous_axes(inputs.edges, height, width):
            return None
        return Case(subject, inputs, outcome, 3, height, width)

    return draw_case()


def _has_ambiguous_axes(features: Features, height: int, width: int) -> bool:
    return any(
        axis in "hwnt" and count == feature.channels
        for feature in features
        for axis, count in zip(feature.axes.split(), feature.shape(3, height, width), strict=True)
    )


def _compute_size_constraint(inputs: Inputs) -> SizeConstraint:
    sizes = intersect([("edge", compute_exact_multiple(f)) for f in inputs.edges])
    assert isinstance(sizes, SizeConstraint)
    return evolve(sizes, least=2 * max([1, *(int(f.stride) for f in inputs.edges if f.stride)]))


def _get_min_size(sizes: SizeConstraint) -> tuple[int, int]:
    least = sizes.compute_padded_size(1, 1)
    assert least is not None
    return least


def _count_elements(features: Features, height: int, width: int) -> int:
    return sum(prod(f.shape(1, height, width)) for f in features)


def _generate_sides(sizes: SizeConstraint) -> st.SearchStrategy[tuple[int, int]]:
    """Sides that sizes admit: of one to five multiples, equal only where they must be or are drawn so."""
    fewest = -(-sizes.least // sizes.multiple)
    side = st.integers(fewest, fewest + 4).map(lambda count: count * sizes.multiple)
    height = side if sizes.height is None else st.just(sizes.height)
    width = side if sizes.width is None else st.just(sizes.width)
    return height.map(lambda one: (one, one)) if sizes.square else st.tuples(height, width)


def _apply_rounding(inputs: Inputs, rounding: Rounding, offset: int) -> Inputs:
    def set_rounding(features: Features) -> Features:
        return tuple(
            f if f.stride is None or f.stride == 1 else evolve(f, rounding=rounding, offset=offset) for f in features
        )

    return inputs.replace_features(tuple(map(set_rounding, inputs.all)))
