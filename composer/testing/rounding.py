"""The law of precision: any type gives that type, and numbers near those of double precision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from composer.testing.breaking import broken, given, made
from composer.testing.broken import ContractBroken, worst
from composer.testing.cases import Case
from composer.testing.fast import HalfByFloat, draws_in_blocks

LAW = "precision"
TYPES = (torch.bfloat16, torch.float16)

FAR = 0.2
"""Of the largest number, what is far apart: a wrong scale or an overflow is found, the noise of eight bits is not."""

NUDGES = (2.0, 4.0, 8.0, 16.0) * 4
"""By how many of a type's roundings the numbers and weights are nudged, to see what they decide."""


def any_precision(case: Case) -> None:
    """In bfloat16, float16 and float64 a module gives that type, and numbers near those of double precision.

    Near is within a fifth of the largest. Where a choice hangs by less than a type's rounding, a token is another one:
    numbers that are far apart in double precision too, once inputs and weights are nudged by a few roundings, are not
    compared.
    """
    double = made(case, torch.float64)
    exact = given(case, LAW, double, case.tensors(torch.float64))
    _hold_type(case, "float64", exact, exact, torch.float64)
    if any(bool(x.isnan().any()) for x in exact):
        raise broken(case, LAW, "in float64 it gives numbers that are none (NaN)")
    for dtype in TYPES:
        name = str(dtype).removeprefix("torch.")
        try:
            network = made(case, dtype)
            with HalfByFloat():
                out = given(case, LAW, network, case.tensors(dtype), of=f"in {name} ")
        except ContractBroken as error:
            if "not implemented for" in str(error):  # torch has no such kernel for this processor
                continue
            raise
        _hold_type(case, name, out, exact, dtype)
        far = _apart(exact, out, FAR)
        if far is not None and not any(bool(x.any()) for x in far):
            continue
        steady = _steady(case, double, exact, dtype)
        if steady is not None and (far is None or any(bool((x & y).any()) for x, y in zip(far, steady, strict=True))):
            shown = out if far is None else [_where(y, x, z) for x, y, z in zip(exact, steady, out, strict=True)]
            beside = worst(("float64", exact), (name, shown))
            raise broken(case, LAW, f"in {name} it gives other numbers than in float64", beside)


def _hold_type(case: Case, name: str, out: Sequence[Tensor], exact: Sequence[Tensor], dtype: torch.dtype) -> None:
    wanted = [dtype if x.is_floating_point() else x.dtype for x in exact]
    for x, one in zip(out, wanted, strict=False):
        if x.dtype is not one:
            raise broken(case, LAW, f"fed {name}, it gives {str(x.dtype).removeprefix('torch.')}")


def _apart(exact: Sequence[Tensor], out: Sequence[Tensor], share: float) -> list[Tensor] | None:
    """Where numbers are far from exact ones; None where they are of other shapes."""
    if [x.shape for x in exact] != [x.shape for x in out]:
        return None
    return [_is_far(x.double(), y.double(), share) for x, y in zip(exact, out, strict=True)]


def _is_far(exact: Tensor, x: Tensor, share: float) -> Tensor:
    finite = exact[exact.isfinite()].abs()
    largest = finite.max().clamp_min(1e-3) if finite.numel() else exact.new_ones(())
    return ~(((x - exact).abs() <= share * largest) | (x == exact))


def _steady(case: Case, network: nn.Module, exact: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor] | None:
    """Which numbers stay near for all nudges; None where not even the shapes do."""
    steady = [torch.ones(x.shape, dtype=torch.bool) for x in exact]
    for nudged, fed in _nudged(network, case.tensors(torch.float64), torch.finfo(dtype).eps):
        apart = _apart(exact, given(case, LAW, nudged, fed), FAR / 2)
        if apart is None:
            return None
        steady = [x & ~y for x, y in zip(steady, apart, strict=True)]
    return steady


def _nudged(
    network: nn.Module, tensors: Sequence[Sequence[Tensor]], rounding: float
) -> Iterator[tuple[nn.Module, list[list[Tensor]]]]:
    generator = torch.Generator().manual_seed(0)

    def nudge(x: Tensor, count: float) -> Tensor:
        return x * (1 + count * rounding * torch.empty_like(x).normal_(generator=generator))

    for count in NUDGES:
        one = deepcopy(network)
        with torch.no_grad(), draws_in_blocks():
            for parameter in one.parameters():
                parameter.copy_(nudge(parameter, count))
        yield one, [[nudge(x, count) for x in several] for several in tensors]


def _where(steady: Tensor, exact: Tensor, x: Tensor) -> Tensor:
    return torch.where(steady, x.double(), exact.double())
