"""One run of a subject: inputs, image size, batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, prod
from typing import Any

import torch
from attrs import evolve, field, frozen
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from composer.layouts import Features, Rounding, format_count
from composer.parts.rules import Outputs, Rejection, compute_exact_multiple
from composer.sizes import SizeConstraint, intersect
from composer.testing.failures import (
    ContractUncheckable,
    ContractViolation,
    compare_shapes,
    format_error,
    format_failure,
    format_tensor_shape,
)
from composer.testing.modules import ModuleSubject
from composer.testing.subjects import (
    ClassifiedInputs,
    Inputs,
    Subject,
    Tensors,
    draw_in_blocks,
    find_valid_sizes,
    run_query,
)

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


def build_network(case: Case, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """Build the module. Raises ContractUncheckable where it cannot be built for inputs that were accepted."""
    try:
        return case.module(dtype, seed)
    except Exception as error:
        what = f"cannot build the module of {case.subject.name}: it raises {format_error(error)}\n  fed  {case}"
        raise ContractUncheckable(what) from error


def run_case(
    case: Case, law: str, network: nn.Module, tensors: Any, *, of: str = "", gradients: bool = False
) -> tuple[Tensor, ...]:
    """What a run gives. Raises ContractViolation where it raises; `of` says how it was run."""
    try:
        return (case.run_with_gradients if gradients else case.run)(network, tensors)
    except Exception as error:
        raise build_violation(case, law, f"{of}it raises {format_error(error)}") from error


def run_checked(case: Case, law: str, network: nn.Module, tensors: Any, *, of: str = "") -> tuple[Tensor, ...]:
    """What a run gives. Raises ContractViolation where that is not what was promised."""
    out = run_case(case, law, network, tensors, of=of)
    if case.has_expected_outputs(out):
        return out
    if isinstance(case.subject, ModuleSubject):
        channels = [f.channels for f in case.get_expected_features()]
        got = ", ".join(format_tensor_shape(tuple(x.shape)) for x in out) or "nothing"
        raise build_violation(case, law, f"{of}it promises features of {channels} channels, and gives {got}")
    wanted = [f.shape(case.batch, case.height, case.width) for f in case.get_expected_features()]
    raise build_violation(case, law, f"{of}it gives something else than it promises", compare_shapes(wanted, out))


def build_violation(case: Case, law: str, what: str, beside: str = "") -> ContractViolation:
    """The failure of a case."""
    return ContractViolation(law, format_failure(case.subject.name, law, what, case, beside=beside))
