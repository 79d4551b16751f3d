"""The law of gradients: they reach every parameter, and what a part is fed, from all that it gives."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from composer.testing.breaking import build_network, build_violation, run_case
from composer.testing.cases import Case
from composer.testing.fast import draw_in_blocks
from composer.testing.richer import generate_enlarged_cases

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
