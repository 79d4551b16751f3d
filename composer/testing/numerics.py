"""The laws of precision and gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy

import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from composer.testing.failures import ContractViolation, format_worst_difference
from composer.testing.runs import Case, build_network, build_violation, generate_enlarged_cases, run_case
from composer.testing.subjects import HalfPrecisionEmulation, draw_in_blocks

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


GRADIENTS_LAW = "gradients"


INITIAL_TRIES, MAX_GRADIENT_TRIES = 2, 12
"""How many weights and inputs are tried at first, and in all where something still gets no gradient."""


def check_gradients(case: Case) -> None:
    """Every parameter that takes gradients gets one, and each feature that is given passes one on to what is fed.

    They are finite, and other than zero for some numbers and some weights. Several of both are tried, away from the
    initial weights: a branch that is multiplied by a weight of zero at first, or is behind an activation that is zero
    for some, will wake. What gets none, or stays zero, is tried on a larger image, and with more levels, frames and
    channels, where the part takes them: over one of each a softmax and a norm are constant, and nothing is fused. A
    feature that is the same whatever is fed passes nothing on; before an encoder nothing learns; neither is asked for.
    """
    quiet = _drop_constant_features(case, _find_missing_gradients(case, 0, None))
    for tried, seed in _iter_retries(case):
        if not quiet:
            return
        quiet = _find_missing_gradients(tried, seed, quiet)
    if quiet.unused:
        raise build_violation(case, GRADIENTS_LAW, f"{', '.join(sorted(quiet.unused))} gets no gradient")
    for seed in range(INITIAL_TRIES, MAX_GRADIENT_TRIES):
        quiet = _find_missing_gradients(case, seed, quiet) if quiet else quiet
    if quiet.names:
        what = f"the gradient of {', '.join(sorted(quiet.names))} is zero for all numbers and images that were tried"
        raise build_violation(case, GRADIENTS_LAW, what)
    if quiet.features:
        which = " and ".join(map(str, sorted(quiet.features)))
        raise build_violation(
            case, GRADIENTS_LAW, f"no gradient reaches what it is fed from feature {which} of what it gives"
        )


@frozen
class MissingGradients:
    """The parameters, and the features that are given, by which no gradient was seen to flow. `unused` are those of the
    parameters that got none at all, not even one of zero.
    """

    names: set[str]
    unused: set[str]
    features: set[int]

    def __bool__(self) -> bool:
        return bool(self.names or self.features)


def _iter_retries(case: Case) -> Iterator[tuple[Case, int]]:
    yield case, 1
    yield from ((other, seed) for other in generate_enlarged_cases(case) for seed in range(INITIAL_TRIES))


def _find_missing_gradients(case: Case, seed: int, before: MissingGradients | None) -> MissingGradients:
    """By what no gradient flows for these weights and numbers either; what is not there stays as it was."""
    network = _apply_perturbation(build_network(case, torch.float64, seed), seed)
    learns = case.subject.has_input_gradients()
    leaves = [[x.requires_grad_(learns) for x in one] for one in case.tensors(torch.float64, seed)]
    # As in a model, where what is fed was computed: one may write into that, and not into a leaf.
    out = run_case(case, GRADIENTS_LAW, network, [[x.clone() for x in one] for one in leaves], gradients=True)
    generator = torch.Generator().manual_seed(seed)
    terms = [(x * torch.randn(x.shape, generator=generator, dtype=torch.float64)).sum() for x in out]
    fed = [x for one in leaves for x in one if x.requires_grad]
    asked = {index for index, x in enumerate(out) if fed and x.is_floating_point()}
    features = {
        index
        for index in (asked if before is None else before.features)
        if index not in asked or not _has_input_gradient(case, terms[index], fed)
    }
    gradients = _compute_gradients(case, network, torch.stack(terms).sum())
    names = {name for name, gradient in gradients.items() if gradient is None or not gradient.any()}
    unused = {name for name, gradient in gradients.items() if gradient is None}
    if before is not None:
        names = {name for name in before.names if name in names or name not in gradients}
        unused = {name for name in before.unused if name in unused or name not in gradients}
    return MissingGradients(names, unused, features)


def _drop_constant_features(case: Case, quiet: MissingGradients) -> MissingGradients:
    """Without the features that are the same for other numbers, which may be fed in any way."""
    if not quiet.features:
        return quiet
    network = _apply_perturbation(build_network(case, torch.float64), 0)
    one, other = (run_case(case, GRADIENTS_LAW, network, case.tensors(torch.float64, seed)) for seed in (0, 1))
    return evolve(quiet, features={index for index in quiet.features if not torch.equal(one[index], other[index])})


def _compute_gradients(case: Case, network: nn.Module, loss: Tensor) -> dict[str, Tensor | None]:
    """The gradients of the parameters that take some. Raises where none gets any, or one that is not finite."""
    wanted = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    if not wanted:
        return {}
    if not loss.requires_grad:
        raise build_violation(case, GRADIENTS_LAW, "nothing that it gives depends on its parameters")
    loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in wanted.items():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            raise build_violation(case, GRADIENTS_LAW, f"the gradient of {name} is not finite")
    return {name: parameter.grad for name, parameter in wanted.items()}


def _has_input_gradient(case: Case, term: Tensor, fed: list[Tensor]) -> bool:
    """Whether a gradient other than zero reaches some of what is fed. Raises where one is not finite."""
    if not term.requires_grad:
        return False
    gradients = torch.autograd.grad(term, fed, retain_graph=True, allow_unused=True)
    reached = [gradient for gradient in gradients if gradient is not None]
    if not all(gradient.isfinite().all() for gradient in reached):
        raise build_violation(case, GRADIENTS_LAW, "the gradient of what it is fed is not finite")
    return any(bool(gradient.any()) for gradient in reached)


def _apply_perturbation(network: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad(), draw_in_blocks():
        for parameter in network.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(generator=generator), alpha=0.1)
    return network
