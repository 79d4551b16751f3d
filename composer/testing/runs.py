"""One run of a subject: its inputs, image size and batch size, and how they are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, prod

import torch
from attrs import evolve, field, frozen
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from composer.layouts import Feature, Features, Rounding, format_count
from composer.parts.rules import Outputs, Rejection, compute_exact_multiple, compute_implied_sizes
from composer.sizes import Conflict, SizeConstraint, intersect
from composer.testing.failures import (
    ContractUncheckable,
    ContractViolation,
    compare_shapes,
    format_error,
    format_failure,
    format_tensor_shape,
)
from composer.testing.inputs import ClassifiedInputs, Inputs
from composer.testing.modules import ModuleSubject
from composer.testing.subjects import Size, Subject, Tensors, draw_in_blocks

MAX_ELEMENTS = 30_000
"""Numbers in the inputs and outputs of one image, at the smallest size that its inputs allow."""

MAX_SPARE_ELEMENTS = 8_000
"""Numbers of one image at larger sizes: bugs show with few, and time grows with them."""

MAX_REJECTED_ELEMENTS = 5_000
"""Numbers in rejected inputs, if any have so few: the size of their outputs is not known."""

_EXACT: tuple[Rounding, int] = ("exact", 0)

GRID_ROUNDINGS: tuple[tuple[Rounding, int], ...] = (*[_EXACT] * 4, ("floor", 0), ("floor", 5), ("ceil", 0), ("ceil", 0))
"""Rounding and offset of the grids of a run."""

BATCH_SIZES = (1, 2, 3, 2, 3, 1, 2, 3, 4, 5)


@frozen(repr=False)
class Case:
    """A subject with inputs, for `batch` images of `height` × `width` reference pixels.

    `tried` holds the other inputs that the subject accepts, if they are known.
    """

    subject: Subject
    inputs: Inputs
    outcome: Outputs | Rejection
    batch: int
    height: int
    width: int
    tried: ClassifiedInputs | None = field(default=None, eq=False, repr=False)

    def build(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
        """Build the module in eval mode, with the weights of a seed; torch's random state is kept.

        Lazy weights are initialized by a run.
        """
        with torch.random.fork_rng(devices=[]), draw_in_blocks():
            torch.default_generator.manual_seed(seed)
            network = self.subject.make(self.inputs).eval()
            if any(map(is_lazy, (*network.parameters(), *network.buffers()))):
                self.call(network, self.draw_tensors())
            return network.to(dtype).eval()

    def draw_tensors(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[list[Tensor]]:
        """Return normal random numbers of the inputs' shapes."""
        noise = torch.Generator().manual_seed(seed)
        size = (self.batch, self.height, self.width)
        return [
            [torch.randn(f.shape(*size), generator=noise, dtype=torch.float64).to(dtype) for f in features]
            for features in self.inputs.all
        ]

    def call(self, network: nn.Module, tensors: Tensors, *, gradients: bool = False) -> tuple[Tensor, ...]:
        """Return the outputs of a module."""
        with torch.set_grad_enabled(gradients):
            return self.subject.call(network, self.inputs, tensors, (self.height, self.width))

    @property
    def outputs(self) -> Outputs:
        """The outputs that the contract promises."""
        assert isinstance(self.outcome, Outputs)
        return self.outcome

    def __repr__(self) -> str:
        return f"<{self.subject.name} with {self}>"

    def __str__(self) -> str:
        return f"{self.inputs}, {format_count(self.batch, 'image')} of {self.height} × {self.width}"


@st.composite
def generate_cases(draw: st.DrawFn, subject: Subject, tried: ClassifiedInputs, most: int = MAX_ELEMENTS) -> Case | None:
    """Draw runs with inputs that a subject accepts; None if no size fits, or the smallest has more than `most` numbers.

    Grids are rounded in some of them, if the subject accepts that.
    """
    inputs = _apply_rounding(draw(st.sampled_from(tried.accepted)), *draw(st.sampled_from(GRID_ROUNDINGS)))
    outcome = subject.run_query(inputs)
    sizes = _find_valid_sizes(inputs, outcome)
    if not isinstance(outcome, Outputs) or sizes is None:
        return None
    edges = (*inputs.edges, *outcome.features)
    size = draw(_generate_sides(sizes))
    if _count_elements(edges, size) > MAX_SPARE_ELEMENTS:
        size = _get_min_size(sizes)
    count = _count_elements(edges, size)
    if count > most:
        return None
    batch = min(draw(st.sampled_from(BATCH_SIZES)), max(2, MAX_ELEMENTS // count))
    return Case(subject, inputs, outcome, batch, *size, tried)


def compute_min_elements(subject: Subject, tried: ClassifiedInputs) -> int | None:
    """Return the numbers in the smallest run, or any count up to MAX_ELEMENTS; None if no size fits any inputs."""
    fewest = None
    for inputs in tried.accepted:
        outcome = subject.infer(inputs)
        sizes = _find_valid_sizes(inputs, outcome)
        if sizes is not None and isinstance(outcome, Outputs):
            count = _count_elements((*inputs.edges, *outcome.features), _get_min_size(sizes))
            fewest = count if fewest is None else min(fewest, count)
            if fewest <= MAX_ELEMENTS:
                break
    return fewest


def generate_rejected_cases(subject: Subject, tried: ClassifiedInputs) -> st.SearchStrategy[Case | None]:
    """Return a strategy of runs that a subject rejects, at sizes that are exact for their inputs.

    No other axis is as long as the channels, so that a module does not run by accident.
    """
    least = [(inputs, _get_min_size(_compute_size_constraint(inputs))) for inputs in tried.rejected]
    has_small = any(_count_elements(inputs.edges, size) <= MAX_REJECTED_ELEMENTS for inputs, size in least)
    most = MAX_REJECTED_ELEMENTS if has_small else MAX_ELEMENTS

    @st.composite
    def draw_case(draw: st.DrawFn) -> Case | None:
        inputs = draw(st.sampled_from(tried.rejected))
        outcome = subject.infer(inputs)
        assert isinstance(outcome, Rejection)
        size = draw(_generate_sides(_compute_size_constraint(inputs)))
        if _count_elements(inputs.edges, size) > most or _has_ambiguous_axes(inputs.edges, size):
            return None
        return Case(subject, inputs, outcome, 3, *size)

    return draw_case()


def list_enlarged_cases(case: Case) -> list[Case]:
    """Return a larger image of the same inputs, and one of the same layout with the most levels, frames and channels.

    Over one cell, level, frame or channel, a softmax or a norm is constant and has no gradient.
    """
    alike = [inputs for inputs in (case.tried.accepted if case.tried else ()) if _is_alike(inputs, case.inputs)]
    richest = max([case.inputs, *alike], key=_measure_inputs)
    cases = (_build_enlarged_case(case, inputs) for inputs in dict.fromkeys((case.inputs, richest)))
    return [larger for larger in cases if larger is not None]


COARSEST_GRIDS = ((4, 5), (2, 3))
"""Cells of the coarsest level; the first is taken for which the finest has few enough."""

MAX_ENLARGED_CELLS = 2048
"""Cells of the finest level, because the cost of attention is the square of that."""


def _build_enlarged_case(case: Case, inputs: Inputs) -> Case | None:
    outcome = case.subject.infer(inputs)
    sizes = _find_valid_sizes(inputs, outcome)
    if sizes is None or not isinstance(outcome, Outputs):
        return None
    coarsest = max([1, *(ceil(f.stride) for f in inputs.edges if f.stride)])
    for rows, columns in COARSEST_GRIDS:
        size = sizes.compute_padded_size(rows * coarsest, columns * coarsest)
        if size is not None and _is_small((*inputs.edges, *outcome.features), size):
            return evolve(case, inputs=inputs, outcome=outcome, batch=4, height=size[0], width=size[1])
    return None


def _is_small(features: Features, size: Size) -> bool:
    cells = max(prod(f.shape(1, *size)) // f.channels for f in features)
    return _count_elements(features, size) <= 40 * MAX_ELEMENTS and cells <= MAX_ENLARGED_CELLS


def _is_alike(inputs: Inputs, other: Inputs) -> bool:
    return len(inputs.all) == len(other.all) and all(
        {(f.axes, f.prefix) for f in features} == {(f.axes, f.prefix) for f in others}
        for features, others in zip(inputs.all, other.all, strict=True)
    )


def _measure_inputs(inputs: Inputs) -> tuple[int, ...]:
    return min(map(len, inputs.all)), min(f.frames for f in inputs.edges), min(f.channels for f in inputs.edges)


def _find_valid_sizes(inputs: Inputs, outcome: Outputs | Rejection | None) -> SizeConstraint | None:
    """Return the image sizes that inputs, outputs and the part allow; None if there are none."""
    if not isinstance(outcome, Outputs):
        return None
    edges = (*inputs.edges, *outcome.features)
    sizes = intersect([("part", outcome.sizes), *(("edge", compute_implied_sizes(f)) for f in edges)])
    return None if isinstance(sizes, Conflict) or sizes.compute_padded_size(1, 1) is None else sizes


def _compute_size_constraint(inputs: Inputs) -> SizeConstraint:
    """Return the sizes at which all inputs are exact and have at least two cells a side."""
    sizes = intersect([("edge", compute_exact_multiple(f)) for f in inputs.edges])
    assert isinstance(sizes, SizeConstraint)
    return evolve(sizes, least=2 * max([1, *(int(f.stride) for f in inputs.edges if f.stride)]))


def _get_min_size(sizes: SizeConstraint) -> Size:
    least = sizes.compute_padded_size(1, 1)
    assert least is not None
    return least


def _generate_sides(sizes: SizeConstraint) -> st.SearchStrategy[Size]:
    """Return a strategy of sizes, of one to five multiples a side."""
    fewest = -(-sizes.least // sizes.multiple)
    side = st.integers(fewest, fewest + 4).map(lambda count: count * sizes.multiple)
    height = side if sizes.height is None else st.just(sizes.height)
    width = side if sizes.width is None else st.just(sizes.width)
    return height.map(lambda side: (side, side)) if sizes.square else st.tuples(height, width)


def _count_elements(features: Features, size: Size) -> int:
    return sum(prod(f.shape(1, *size)) for f in features)


def _has_ambiguous_axes(features: Features, size: Size) -> bool:
    return any(
        axis in "hwnt" and count == feature.channels
        for feature in features
        for axis, count in zip(feature.axes.split(), feature.shape(3, *size), strict=True)
    )


def _apply_rounding(inputs: Inputs, rounding: Rounding, offset: int) -> Inputs:
    def set_rounding(features: Features) -> Iterator[Feature]:
        for f in features:
            yield f if f.stride in (None, 1) else evolve(f, rounding=rounding, offset=offset)

    return inputs.replace_features(tuple(tuple(set_rounding(features)) for features in inputs.all))


# --- runs that report


def build_network(case: Case, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """Build the module. Raises ContractUncheckable if it cannot be built for inputs that were accepted."""
    try:
        return case.build(dtype, seed)
    except Exception as error:
        what = f"cannot build the module of {case.subject.name}: it raises {format_error(error)}\n  input  {case}"
        raise ContractUncheckable(what) from error


def run_case(
    case: Case, law: str, network: nn.Module, tensors: Tensors, *, mode: str = "", gradients: bool = False
) -> tuple[Tensor, ...]:
    """Return the outputs. Raises ContractViolation if the module raises; `mode` begins the message."""
    try:
        return case.call(network, tensors, gradients=gradients)
    except Exception as error:
        raise build_violation(case, law, f"{mode}it raises {format_error(error)}") from error


def run_checked(case: Case, network: nn.Module, mode: str = "") -> None:
    """Run once for the law of shapes. Raises ContractViolation if the outputs differ from the contract."""
    out = run_case(case, "shapes", network, case.draw_tensors(), mode=mode)
    size = (case.height, case.width)
    if case.subject.has_expected_outputs(out, case.outputs, case.batch, size):
        return
    if isinstance(case.subject, ModuleSubject):
        channels = [f.channels for f in case.outputs.features]
        got = ", ".join(format_tensor_shape(tuple(x.shape)) for x in out) or "nothing"
        what = f"{mode}it must return features of {channels} channels (got {got})"
        raise build_violation(case, "shapes", what)
    expected = [f.shape(case.batch, *size) for f in case.outputs.features]
    what = f"{mode}its outputs differ from its contract"
    raise build_violation(case, "shapes", what, compare_shapes(expected, out))


def build_violation(case: Case, law: str, what: str, details: str = "") -> ContractViolation:
    """Return the violation of a case."""
    return ContractViolation(law, format_failure(case.subject.name, law, what, case, details=details))
