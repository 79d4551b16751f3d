"""One run of a part: what it is fed, at which size, with which batch; and how that is drawn and written."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from attrs import evolve, field, frozen
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from composer.contracts import Promise, Refusal
from composer.contracts.rules import whole
from composer.feature import Features, Rounding, counted
from composer.sizes import Sizes, intersect
from composer.testing.fast import draws_in_blocks
from composer.testing.inputs import Inputs, Tried
from composer.testing.subjects import Subject, Tensors, asked, sizes_of

MOST_NUMBERS = 30_000
"""How many numbers a run has at most, inputs and outputs of one image together: what is wrong is wrong with few."""

FEW_NUMBERS = 5_000
"""How many inputs what is refused has, where any of it has so few: nobody says how much comes out of it."""

_EXACT: tuple[Rounding, int] = ("exact", 0)
_UP: tuple[Rounding, int] = ("ceil", 0)
GRIDS: tuple[tuple[Rounding, int], ...] = (_EXACT, _EXACT, _EXACT, _EXACT, ("floor", 0), ("floor", 5), _UP, _UP)
"""How the grids of a run are rounded, with which offset: half of them not at all."""

BATCHES = (1, 2, 3, 2, 3, 1, 2, 3, 4, 5)
"""How many images a run has: mostly few, and now and then more than any that is likely to be special."""


@frozen(repr=False)
class Case:
    """A subject before inputs, for `batch` images of `height` × `width` reference pixels.

    `tried` is what else the subject takes, where it is known.
    """

    subject: Subject
    inputs: Inputs
    outcome: Promise | Refusal
    batch: int
    height: int
    width: int
    tried: Tried | None = field(default=None, eq=False, repr=False)

    def module(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
        """The subject's module in eval mode, with the weights that a seed gives. The random state is kept.

        Weights that take their shapes from the first that they are fed (`nn.LazyConv2d`) are there already.
        """
        with torch.random.fork_rng(devices=[]), draws_in_blocks():
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

    def promised(self) -> Features:
        """What the subject says that it gives."""
        assert isinstance(self.outcome, Promise)
        return self.outcome.features

    def agrees(self, given: Sequence[Tensor]) -> bool:
        """Whether tensors are what was promised."""
        assert isinstance(self.outcome, Promise)
        return self.subject.agrees(given, self.outcome, self.batch, self.height, self.width)

    def __repr__(self) -> str:
        return f"<{self.subject.name} fed {self}>"

    def __str__(self) -> str:
        """What the subject is fed, as a person reads it."""
        return f"{'; '.join(self.inputs.sentences)}, of {counted(self.batch, 'image')} of {self.height} × {self.width}"


@st.composite
def cases(draw: st.DrawFn, subject: Subject, tried: Tried, most: int = MOST_NUMBERS) -> Case | None:
    """Runs of a subject before inputs that it accepts, small and odd sizes first; None where no size is admitted.

    Grids are rounded in some of them, where the subject accepts those too. A run has at most `most` numbers.
    """
    inputs = _rounded(draw(st.sampled_from(tried.accepted)), *draw(st.sampled_from(GRIDS)))
    outcome = asked(subject, inputs)
    sizes = sizes_of(inputs, outcome) if isinstance(outcome, Promise) else None
    if not isinstance(outcome, Promise) or sizes is None:
        return None
    height, width = draw(_sides(sizes))
    if _numbers((*inputs.edges, *outcome.features), height, width) > most:
        return None
    return Case(subject, inputs, outcome, draw(st.sampled_from(BATCHES)), height, width, tried)


def fewest_numbers(subject: Subject, tried: Tried) -> int | None:
    """How many numbers the smallest run has, or less than MOST_NUMBERS; None where no size suits any inputs."""
    fewest = None
    for inputs in tried.accepted:
        outcome = subject.outcome(inputs)
        sizes = sizes_of(inputs, outcome) if isinstance(outcome, Promise) else None
        least = None if sizes is None else sizes.nearest(1, 1)
        if least is not None and isinstance(outcome, Promise):
            numbers = _numbers((*inputs.edges, *outcome.features), *least)
            fewest = numbers if fewest is None else min(fewest, numbers)
            if fewest <= MOST_NUMBERS:
                break
    return fewest


def refused_cases(subject: Subject, tried: Tried) -> st.SearchStrategy[Case | None]:
    """Runs that a subject refuses, at sizes at which all that it is fed is whole, with cells to spare.

    They have at most FEW_NUMBERS, or MOST_NUMBERS where nothing has so few. No axis has as many entries as there are
    channels: what takes it for that of the channels runs by coincidence alone.
    """
    few = any(_numbers(inputs.edges, *_smallest(_spare(inputs))) <= FEW_NUMBERS for inputs in tried.refused)
    most = FEW_NUMBERS if few else MOST_NUMBERS

    @st.composite
    def drawn(draw: st.DrawFn) -> Case | None:
        inputs = draw(st.sampled_from(tried.refused))
        outcome = subject.outcome(inputs)
        assert isinstance(outcome, Refusal)
        height, width = draw(_sides(_spare(inputs)))
        if _numbers(inputs.edges, height, width) > most or _coincide(inputs.edges, height, width):
            return None
        return Case(subject, inputs, outcome, 3, height, width)

    return drawn()


def _coincide(features: Features, height: int, width: int) -> bool:
    return any(
        axis in "hwnt" and count == feature.channels
        for feature in features
        for axis, count in zip(feature.axes.split(), feature.shape(3, height, width), strict=True)
    )


def _spare(inputs: Inputs) -> Sizes:
    sizes = intersect([("edge", whole(f)) for f in inputs.edges])
    assert isinstance(sizes, Sizes)
    return evolve(sizes, least=2 * max([1, *(int(f.stride) for f in inputs.edges if f.stride)]))


def _smallest(sizes: Sizes) -> tuple[int, int]:
    least = sizes.nearest(1, 1)
    assert least is not None
    return least


def _numbers(features: Features, height: int, width: int) -> int:
    return sum(prod(f.shape(1, height, width)) for f in features)


def _sides(sizes: Sizes) -> st.SearchStrategy[tuple[int, int]]:
    """Sides that sizes admit: of one to five multiples, equal only where they must be or are drawn so."""
    fewest = -(-sizes.least // sizes.multiple)
    side = st.integers(fewest, fewest + 4).map(lambda count: count * sizes.multiple)
    height = side if sizes.height is None else st.just(sizes.height)
    width = side if sizes.width is None else st.just(sizes.width)
    return height.map(lambda one: (one, one)) if sizes.square else st.tuples(height, width)


def _rounded(inputs: Inputs, rounding: Rounding, offset: int) -> Inputs:
    def changed(features: Features) -> Features:
        return tuple(
            f if f.stride is None or f.stride == 1 else evolve(f, rounding=rounding, offset=offset) for f in features
        )

    return inputs.replaced(tuple(map(changed, inputs.all)))
