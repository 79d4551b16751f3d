"""The law of gradients: they reach every parameter, and what a part is fed, from all that it gives."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from attrs import frozen
from torch import Tensor, nn

from composer.testing.breaking import broken, given, made
from composer.testing.cases import Case
from composer.testing.richer import richer

LAW = "gradients"
FEW_TRIES, MOST_TRIES = 2, 12
"""How many weights and inputs are tried at first, and in all where something still gets no gradient."""


def gradients_flow(case: Case) -> None:
    """Every parameter that takes gradients gets one, and each feature that is given passes one on to what is fed.

    They are finite, and other than zero for some numbers and some weights. Several of both are tried, away from the
    initial weights: a branch that is multiplied by a weight of zero at first, or is behind an activation that is zero
    for some, will wake. What stays zero is tried on a larger image, and with more levels, frames and channels, where
    the part takes them: over one of each a softmax and a norm are constant. A feature that is the same whatever is fed
    passes nothing on; before an encoder nothing learns; so neither is asked for.
    """
    quiet: Quiet | None = None
    for tried, seed in _tries(case):
        network = _stirred(made(tried, LAW, torch.float64, seed), seed)
        quiet = _still_quiet(tried, network, seed, quiet)
        if not quiet.names and not quiet.features:
            return
    assert quiet is not None
    if quiet.names:
        what = f"the gradient of {', '.join(sorted(quiet.names))} is zero for all numbers and images that were tried"
        raise broken(case, LAW, what)
    cut = sorted(index for index in quiet.features if _depends(case, index))
    if cut:
        which = " and ".join(map(str, cut))
        raise broken(case, LAW, f"no gradient reaches what it is fed from feature {which} of what it gives")


@frozen
class Quiet:
    """The parameters, and the features that are given, by which no gradient was seen to flow."""

    names: set[str]
    features: set[int]


def _tries(case: Case) -> Iterator[tuple[Case, int]]:
    yield from ((case, seed) for seed in range(FEW_TRIES))
    yield from ((other, seed) for other in richer(case) for seed in range(FEW_TRIES))
    yield from ((case, seed) for seed in range(FEW_TRIES, MOST_TRIES))


def _still_quiet(case: Case, network: nn.Module, seed: int, before: Quiet | None) -> Quiet:
    """By what no gradient flows for these weights and numbers either; what is not there stays as it was."""
    leaves = [
        [x.requires_grad_(case.subject.learns_before()) for x in one] for one in case.tensors(torch.float64, seed)
    ]
    # As in a model, where what is fed was computed: one may write into that, and not into a leaf.
    out = given(case, LAW, network, [[x.clone() for x in one] for one in leaves], gradients=True)
    generator = torch.Generator().manual_seed(seed)
    terms = [(x * torch.randn(x.shape, generator=generator, dtype=torch.float64)).sum() for x in out]
    fed = [x for one in leaves for x in one if x.requires_grad]
    asked = {index for index, x in enumerate(out) if fed and x.is_floating_point()}
    deaf = {
        index
        for index in (asked if before is None else before.features)
        if index not in asked or not _reaches(case, terms[index], fed)
    }
    silent = _silent(case, network, torch.stack(terms).sum())
    if before is not None:
        there = {name for name, _ in network.named_parameters()}
        silent = (before.names & silent) | (before.names - there)
    return Quiet(silent, deaf)


def _silent(case: Case, network: nn.Module, loss: Tensor) -> set[str]:
    """The parameters of which the gradient is zero. Raises where there is none, or one that is not finite."""
    wanted = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    if not wanted:
        return set()
    if not loss.requires_grad:
        raise broken(case, LAW, "nothing that it gives depends on its parameters")
    loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in wanted.items():
        if parameter.grad is None:
            raise broken(case, LAW, f"{name} gets no gradient")
        if not parameter.grad.isfinite().all():
            raise broken(case, LAW, f"the gradient of {name} is not finite")
    return {name for name, parameter in wanted.items() if parameter.grad is not None and not parameter.grad.any()}


def _reaches(case: Case, term: Tensor, fed: list[Tensor]) -> bool:
    """Whether a gradient other than zero reaches some of what is fed. Raises where one is not finite."""
    if not term.requires_grad:
        return False
    gradients = torch.autograd.grad(term, fed, retain_graph=True, allow_unused=True)
    reached = [gradient for gradient in gradients if gradient is not None]
    if not all(gradient.isfinite().all() for gradient in reached):
        raise broken(case, LAW, "the gradient of what it is fed is not finite")
    return any(bool(gradient.any()) for gradient in reached)


def _depends(case: Case, index: int) -> bool:
    """Whether a feature that is given is another one for other numbers, which may be fed in any way."""
    network = _stirred(made(case, LAW, torch.float64), 0)
    one, other = (given(case, LAW, network, case.tensors(torch.float64, seed))[index] for seed in (0, 1))
    return not torch.equal(one, other)


def _stirred(network: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=0.1)
    return network
