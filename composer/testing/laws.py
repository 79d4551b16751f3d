"""The laws that a contract and its module keep. Each is a function of one run, and raises where it is broken.

Each run of a module gets inputs of its own: one that writes into its inputs breaks no law but `inputs` by that.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from types import MappingProxyType
from typing import Any

import torch
from attrs import evolve
from torch import Tensor, nn

from composer.contracts import Refusal
from composer.testing.breaking import broken, given, made, promised
from composer.testing.broken import shape, told, worst
from composer.testing.cases import Case
from composer.testing.flowing import gradients_flow
from composer.testing.held import changes, firm, loose
from composer.testing.rounding import any_precision

Law = Callable[[Case], None]


def promised_shapes(case: Case) -> None:
    """In eval mode and in train mode a forward pass gives the features that were promised, in number and shape."""
    network = made(case)
    promised(case, "shapes", network, case.tensors())
    if case.batch > 1:  # of a single value no norm can learn its statistics
        with torch.random.fork_rng(devices=[]):
            promised(case, "shapes", network.train(), case.tensors(), of="in train mode ")


def inputs_unchanged(case: Case) -> None:
    """The lists that a module is fed, and the tensors in them, are afterwards what they were; in train mode too."""
    network = made(case)
    _hold_inputs(case, network)
    if case.batch > 1:
        with torch.random.fork_rng(devices=[]):
            _hold_inputs(case, network.train(), "in train mode ")


def _hold_inputs(case: Case, network: nn.Module, of: str = "") -> None:
    tensors = case.tensors()
    lists, values = [list(one) for one in tensors], deepcopy(tensors)
    given(case, "inputs", network, tensors, of=of)
    for fed, kept, before in zip(tensors, lists, values, strict=True):
        if len(fed) != len(kept) or any(one is not other for one, other in zip(fed, kept, strict=True)):
            raise broken(case, "inputs", f"{of}the list that it is fed is another one afterwards")
        if not all(map(torch.equal, fed, before)):
            raise broken(case, "inputs", f"{of}a tensor that it is fed has other values afterwards")


def itself_unchanged(case: Case) -> None:
    """In eval mode a run changes nothing that the module holds: weights, statistics, flags; nor random states.

    A cache may be filled: a buffer that is not saved, a tensor, a dict, a set or a private attribute, which the same
    runs once more leave as they are.
    """
    network, odd = made(case), _odd(case)
    before, drawn = firm(network), torch.get_rng_state()
    filled: dict[str, Any] = {}
    changed: list[str] = []
    for turn in range(2):
        for one in (case, odd):
            given(one, "itself", network, one.tensors())
        changed = changes(before, firm(network)) + (changes(filled, loose(network)) if turn else [])
        filled = loose(network)
        if changed:
            raise broken(case, "itself", f"two runs in eval mode changed {', '.join(changed)}")
    if not torch.equal(torch.get_rng_state(), drawn):
        raise broken(case, "itself", "a run in eval mode drew from torch's random state")


def same_again(case: Case) -> None:
    """In eval mode the same input gives the same numbers again, also after an image of another size and number."""
    network, odd = made(case), _odd(case)
    first = given(case, "again", network, case.tensors())
    given(odd, "again", network, odd.tensors())
    second = given(case, "again", network, case.tensors())
    if not _alike(first, second, exactly=True):
        beside = worst(("first", first), ("then", second))
        raise broken(case, "again", "the same input gives something else the second time", beside)


def image_by_image(case: Case) -> None:
    """In eval mode what a batch gives is what its images give one by one."""
    network = made(case, torch.float64)
    together = given(case, "batch", network, case.tensors(torch.float64))
    axes = [f.axes.split().index("b") for f in case.promised()]
    for index in range(case.batch):
        one = given(case, "batch", network, _picked(case, case.tensors(torch.float64), index))
        alone = [x.narrow(axis, index, 1) for x, axis in zip(together, axes, strict=False)]
        if not _alike(alone, one):
            beside = worst(("in the batch", alone), ("alone", one))
            raise broken(case, "batch", f"image {index} of the batch gives something else alone", beside)


def any_memory_format(case: Case) -> None:
    """Channels last in memory, or not contiguous, the same numbers give the same numbers."""
    network = made(case, torch.float64)
    expected = given(case, "memory", network, case.tensors(torch.float64))
    for way, change in (("channels last in memory", _channels_last), ("not contiguous in memory", _spaced)):
        fed = [[change(x) for x in one] for one in case.tensors(torch.float64)]
        out = given(case, "memory", network, fed, of=f"{way} ")
        if not _alike(expected, out):
            beside = worst(("contiguous", expected), (way.removesuffix(" in memory"), out))
            raise broken(case, "memory", f"{way}, the same input gives other numbers", beside)


def real_refusals(case: Case) -> None:
    """Forced through, what is refused as impossible raises, and what is refused by policy runs."""
    assert isinstance(case.outcome, Refusal)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parameters without numbers, and the like
            out = case.run(case.module(), case.tensors())
    except Exception as error:
        if case.outcome.kind == "policy":
            what = f"it {case.outcome.expected}, by policy; forced, it raises {told(error)}"
            raise broken(case, "refusals", what) from error
        return
    if case.outcome.kind == "impossible":
        got = ", ".join(shape(tuple(x.shape)) for x in out)
        raise broken(
            case, "refusals", f"it {case.outcome.expected}, and calls all else impossible; forced, it gives {got}"
        )


LAWS: Mapping[str, Law] = MappingProxyType(
    {
        "shapes": promised_shapes,
        "inputs": inputs_unchanged,
        "again": same_again,
        "itself": itself_unchanged,
        "batch": image_by_image,
        "memory": any_memory_format,
        "precision": any_precision,
        "gradients": gradients_flow,
    }
)
"""The laws of what is accepted, by the names that failures and tests have for them."""

REFUSALS = "refusals"
"""The law of what is refused: `real_refusals`."""


def _odd(case: Case) -> Case:
    """The run with one image more: an odd one out between two that are alike."""
    return evolve(case, batch=case.batch + 1)


def _alike(one: Any, other: Any, *, exactly: bool = False) -> bool:
    if len(one) != len(other):
        return False
    same: Callable[[Tensor, Tensor], bool] = _equal if exactly else _close
    return all(x.shape == y.shape and same(x, y) for x, y in zip(one, other, strict=True))


def _equal(x: Tensor, y: Tensor) -> bool:
    return torch.allclose(x, y, rtol=0, atol=0, equal_nan=True)


def _close(x: Tensor, y: Tensor) -> bool:
    return torch.allclose(x, y, rtol=1e-6, atol=1e-8, equal_nan=True)


def _picked(case: Case, tensors: Any, index: int) -> list[list[Tensor]]:
    return [
        [x.narrow(f.axes.split().index("b"), index, 1) for x, f in zip(one, features, strict=True)]
        for one, features in zip(tensors, case.inputs.all, strict=True)
    ]


def _channels_last(x: Tensor) -> Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=formats[x.dim()]) if x.dim() in formats else x


def _spaced(x: Tensor) -> Tensor:
    return torch.stack([x, x], dim=-1)[..., 0]
