"""The law of precision: any type gives that type, and numbers near those of double precision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from composer.testing.breaking import build_network, build_violation, run_case
from composer.testing.broken import ContractViolation, format_worst_difference
from composer.testing.cases import Case
from composer.testing.fast import HalfPrecisionEmulation, draw_in_blocks

PRECISION_LAW = "precision"
LOW_PRECISION_TYPES = (torch.bfloat16, torch.float16)

MAX_RELATIVE_ERROR = 0.2
"""Of the largest number, what is far apart: a wrong scale or an overflow is found, the noise of eight bits is not."""

NOISE_SCALES = (2.0, 4.0, 8.0, 16.0) * 4
"""By how many of a type's roundings the numbers and weights are nudged, to see what they decide."""


def check_precision(case: Case) -> None:
    """In bfloat16, float16 and float64 a module gives that type, and numbers near those of double precision.

    Near is within a fifth of the largest. Where a choice hangs by less than a type's rounding, a token is another one:
    numbers that are far apart in double precision too, once inputs and weights are nudged by a few roundings, are not
    compared.
    """
    double = build_network(case, torch.float64)
    exact = run_case(case, PRECISION_LAW, double, case.tensors(torch.float64))
    _check_output_types(case, "float64", exact, exact, torch.float64)
    if any(bool(x.isnan().any()) for x in exact):
        raise build_violation(case, PRECISION_LAW, "in float64 it gives numbers that are none (NaN)")
    for dtype in LOW_PRECISION_TYPES:
        name = str(dtype).removeprefix("torch.")
        try:
            network = build_network(case, dtype)
            with HalfPrecisionEmulation():
                out = run_case(case, PRECISION_LAW, network, case.tensors(dtype), of=f"in {name} ")
        except ContractViolation as error:
            if "not implemented for" in str(error):  # torch has no such kernel for this processor
                continue
            raise
        _check_output_types(case, name, out, exact, dtype)
        far = _find_differences(exact, out, MAX_RELATIVE_ERROR)
        if far is not None and not any(bool(x.any()) for x in far):
            continue
        steady = _find_stable_elements(case, double, exact, dtype)
        if steady is not None and (far is None or any(bool((x & y).any()) for x, y in zip(far, steady, strict=True))):
            shown = (
                out if far is None else [_replace_unstable(y, x, z) for x, y, z in zip(exact, steady, out, strict=True)]
            )
            beside = format_worst_difference(("float64", exact), (name, shown))
            raise build_violation(case, PRECISION_LAW, f"in {name} it gives other numbers than in float64", beside)


def _check_output_types(
    case: Case, name: str, out: Sequence[Tensor], exact: Sequence[Tensor], dtype: torch.dtype
) -> None:
    wanted = [dtype if x.is_floating_point() else x.dtype for x in exact]
    for x, one in zip(out, wanted, strict=False):
        if x.dtype is not one:
            raise build_violation(case, PRECISION_LAW, f"fed {name}, it gives {str(x.dtype).removeprefix('torch.')}")


def _find_differences(exact: Sequence[Tensor], out: Sequence[Tensor], share: float) -> list[Tensor] | None:
    """Where numbers are far from exact ones; None where they are of other shapes."""
    if [x.shape for x in exact] != [x.shape for x in out]:
        return None
    return [_is_far(x.double(), y.double(), share) for x, y in zip(exact, out, strict=True)]


def _is_far(exact: Tensor, x: Tensor, share: float) -> Tensor:
    finite = exact[exact.isfinite()].abs()
    largest = finite.max().clamp_min(1e-3) if finite.numel() else exact.new_ones(())
    return ~(((x - exact).abs() <= share * largest) | (x == exact))


def _find_stable_elements(
    case: Case, network: nn.Module, exact: Sequence[Tensor], dtype: torch.dtype
) -> list[Tensor] | None:
    """Which numbers stay near for all nudges; None where not even the shapes do."""
    steady = [torch.ones(x.shape, dtype=torch.bool) for x in exact]
    for nudged, fed in _generate_perturbed(network, case.tensors(torch.float64), torch.finfo(dtype).eps):
        apart = _find_differences(exact, run_case(case, PRECISION_LAW, nudged, fed), MAX_RELATIVE_ERROR / 2)
        if apart is None:
            return None
        steady = [x & ~y for x, y in zip(steady, apart, strict=True)]
    return steady


def _generate_perturbed(
    network: nn.Module, tensors: Sequence[Sequence[Tensor]], rounding: float
) -> Iterator[tuple[nn.Module, list[list[Tensor]]]]:
    generator = torch.Generator().manual_seed(0)

    def add_noise(x: Tensor, count: float) -> Tensor:
        return x * (1 + count * rounding * torch.empty_like(x).normal_(generator=generator))

    for count in NOISE_SCALES:
        one = deepcopy(network)
        with torch.no_grad(), draw_in_blocks():
            for parameter in one.parameters():
                parameter.copy_(add_noise(parameter, count))
        yield one, [[add_noise(x, count) for x in several] for several in tensors]


def _replace_unstable(steady: Tensor, exact: Tensor, x: Tensor) -> Tensor:
    return torch.where(steady, x.double(), exact.double())
