"""The laws that a contract and its module keep. Each is a function of one run, and raises where it is broken."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from composer.contracts import Refusal
from composer.testing.broken import CannotBeHeld, ContractBroken, said, shape, side_by_side, told, worst
from composer.testing.cases import Case
from composer.testing.plain import Plain

Law = Callable[[Case], None]
MOST_TRIES = 12
HALVES = (torch.bfloat16, torch.float16, torch.float64)


def promised_shapes(case: Case) -> None:
    """In eval mode and in train mode a forward pass gives the features that were promised, in number and shape."""
    network = _made(case, "shapes")
    _held(case, "shapes", case.run, network, case.tensors())
    if case.batch > 1:  # of a single value no norm can learn its statistics
        with torch.random.fork_rng(devices=[]):
            _held(case, "shapes", case.run, network.train(), case.tensors(), of="in train mode ")


def inputs_unchanged(case: Case) -> None:
    """The lists that a module is fed, and the tensors in them, are afterwards what they were."""
    tensors = case.tensors()
    lists, values = [list(one) for one in tensors], deepcopy(tensors)
    _given(case, "inputs", _made(case, "inputs"), tensors)
    for fed, kept, before in zip(tensors, lists, values, strict=True):
        if len(fed) != len(kept) or any(one is not other for one, other in zip(fed, kept, strict=True)):
            raise _broken(case, "inputs", "the list that it is fed is another one afterwards")
        if not all(map(torch.equal, fed, before)):
            raise _broken(case, "inputs", "a tensor that it is fed has other values afterwards")


def itself_unchanged(case: Case) -> None:
    """In eval mode a run changes nothing that the module holds: weights, statistics, flags; nor random states."""
    network = _made(case, "itself")
    state, held, drawn = deepcopy(network.state_dict()), _held_values(network), torch.get_rng_state()
    _given(case, "itself", network, case.tensors())
    _given(case, "itself", network, _odd(case).tensors())
    changed = [name for name, x in network.state_dict().items() if not torch.equal(x, state[name])]
    changed += [name for name, value in _held_values(network).items() if held.get(name, value) != value]
    if changed:
        raise _broken(case, "itself", f"two runs in eval mode changed {', '.join(changed)}")
    if not torch.equal(torch.get_rng_state(), drawn):
        raise _broken(case, "itself", "a run in eval mode drew from torch's random state")


def same_again(case: Case) -> None:
    """In eval mode the same input gives the same numbers again, also after an image of another size and number."""
    network = _made(case, "again")
    first = _given(case, "again", network, case.tensors())
    _given(case, "again", network, _odd(case).tensors())
    second = _given(case, "again", network, case.tensors())
    if not _alike(first, second, exactly=True):
        beside = worst(("first", first), ("then", second))
        raise _broken(case, "again", "the same input gives something else the second time", beside)


def image_by_image(case: Case) -> None:
    """In eval mode what a batch gives is what its images give one by one."""
    network, tensors = _made(case, "batch", torch.float64), case.tensors(torch.float64)
    together = _given(case, "batch", network, tensors)
    axes = [f.axes.split().index("b") for f in case.promised()]
    for index in range(case.batch):
        one = _given(case, "batch", network, _picked(case, tensors, index))
        alone = [x.narrow(axis, index, 1) for x, axis in zip(together, axes, strict=False)]
        if not _alike(alone, one):
            beside = worst(("in the batch", alone), ("alone", one))
            raise _broken(case, "batch", f"image {index} of the batch gives something else alone", beside)


def any_memory_format(case: Case) -> None:
    """Channels last in memory, or not contiguous, the same numbers give the same numbers."""
    network, tensors = _made(case, "memory", torch.float64), case.tensors(torch.float64)
    expected = _given(case, "memory", network, tensors)
    for way, change in (("channels last in memory", _channels_last), ("not contiguous in memory", _spaced)):
        given = _given(case, "memory", network, [[change(x) for x in one] for one in tensors], of=f"{way} ")
        if not _alike(expected, given):
            beside = worst(("contiguous", expected), (way.removesuffix(" in memory"), given))
            raise _broken(case, "memory", f"{way}, the same input gives other numbers", beside)


def any_precision(case: Case) -> None:
    """In bfloat16, float16 and float64 a module gives that type, and numbers near those of double precision.

    Near is within a fifth of the largest: a wrong scale or an overflow is found, the noise of eight bits is not.
    """
    exact = _given(case, "precision", _made(case, "precision", torch.float64), case.tensors(torch.float64))
    for dtype in HALVES:
        name = str(dtype).removeprefix("torch.")
        try:
            given = _given(case, "precision", _made(case, "precision", dtype), case.tensors(dtype), of=f"in {name} ")
        except ContractBroken as broken:
            if "not implemented for" in str(broken):  # torch has no such kernel for this processor
                continue
            raise
        if any(x.dtype is not dtype for x in given):
            raise _broken(case, "precision", f"fed {name}, it gives {str(given[0].dtype).removeprefix('torch.')}")
        if not all(_near(x, y) for x, y in zip(given, exact, strict=True)):
            beside = worst(("float64", exact), (name, given))
            raise _broken(case, "precision", f"in {name} it gives other numbers than in float64", beside)


def live_parameters(case: Case) -> None:
    """Every parameter that takes gradients gets one, finite, and other than zero for some input and some weights.

    Several of both are tried, away from the initial weights: a branch that is multiplied by a weight of zero at first,
    or is behind an activation that is zero for some, will wake.
    """
    quiet: set[str] | None = None
    for seed in range(MOST_TRIES):
        network = _stirred(_made(case, "gradients", torch.float64, seed), seed)
        wanted = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
        if quiet is None:
            quiet = set(wanted)
        if not quiet:
            return
        _loss(case, network, seed).backward()  # type: ignore[no-untyped-call]
        for name, parameter in wanted.items():
            if parameter.grad is None:
                raise _broken(case, "gradients", f"{name} gets no gradient")
            if not parameter.grad.isfinite().all():
                raise _broken(case, "gradients", f"the gradient of {name} is not finite")
        quiet -= {name for name, parameter in wanted.items() if parameter.grad is not None and parameter.grad.any()}
    raise _broken(case, "gradients", f"the gradient of {', '.join(sorted(quiet or ()))} is zero, whatever the input")


def real_refusals(case: Case) -> None:
    """Forced through, what is refused as impossible raises, and what is refused by policy runs."""
    assert isinstance(case.outcome, Refusal)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parameters without numbers, and the like
            given = case.run(case.module(), case.tensors())
    except Exception as error:
        if case.outcome.kind == "policy":
            what = f"it {case.outcome.expected}, by policy; forced, it raises {told(error)}"
            raise _broken(case, "refusals", what) from error
        return
    if case.outcome.kind == "impossible":
        got = ", ".join(shape(tuple(x.shape)) for x in given)
        raise _broken(
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
        "gradients": live_parameters,
    }
)
"""The laws of what is accepted, by the names that failures and tests have for them."""

REFUSALS = "refusals"
"""The law of what is refused: `real_refusals`."""


def _made(case: Case, law: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """The module. Raises where none can be made for what was accepted."""
    try:
        return case.module(dtype, seed)
    except Exception as error:
        what = f"no module can be made, it raises {told(error)}"
        raise CannotBeHeld(law, said(case.subject.name, law, what, case)) from error


def _given(case: Case, law: str, network: nn.Module, tensors: Any, of: str = "") -> tuple[Tensor, ...]:
    return _held(case, law, case.run, network, tensors, of=of, strictly=False)


def _held(
    case: Case, law: str, run: Callable[..., tuple[Tensor, ...]], *given: Any, of: str = "", strictly: bool = True
) -> tuple[Tensor, ...]:
    """What a run gives. Raises where it raises; and, held strictly, where it is not what was promised."""
    wanted = [f.shape(case.batch, case.height, case.width) for f in case.promised()]
    try:
        out = run(*given)
    except Exception as error:
        raise _broken(case, law, f"{of}it raises {told(error)}") from error
    if strictly and not case.agrees(out):
        if isinstance(case.subject, Plain):
            channels = [f.channels for f in case.promised()]
            got = ", ".join(shape(tuple(x.shape)) for x in out) or "nothing"
            raise _broken(case, law, f"{of}it promises features of {channels} channels, and gives {got}")
        raise _broken(case, law, f"{of}it gives something else than it promises", side_by_side(wanted, out))
    return out


def _broken(case: Case, law: str, what: str, beside: str = "") -> ContractBroken:
    return ContractBroken(law, said(case.subject.name, law, what, case, beside=beside))


def _odd(case: Case) -> Case:
    """The run with one image more: an odd one out between two that are alike."""
    return Case(case.subject, case.inputs, case.outcome, case.batch + 1, case.height, case.width)


def _held_values(network: nn.Module) -> dict[str, Any]:
    """The plain values that a module and its children hold beside torch's own: flags, counts, sizes, lists of them."""
    return {
        f"{name}.{key}".lstrip("."): deepcopy(value)
        for name, child in network.named_modules()
        for key, value in vars(child).items()
        if not key.startswith("_")
        and isinstance(value, bool | int | float | str | tuple | list | type(None))
        and not _has_tensors(value)
    }


def _has_tensors(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(one, Tensor | nn.Module) for one in value)


def _alike(one: Any, other: Any, *, exactly: bool = False) -> bool:
    if len(one) != len(other):
        return False
    same: Callable[[Tensor, Tensor], bool] = torch.equal if exactly else _close
    return all(x.shape == y.shape and same(x, y) for x, y in zip(one, other, strict=True))


def _close(x: Tensor, y: Tensor) -> bool:
    return torch.allclose(x, y, rtol=1e-6, atol=1e-8, equal_nan=True)


def _near(x: Tensor, exact: Tensor) -> bool:
    largest = exact.abs().max().clamp_min(1e-3) if exact.numel() else exact.new_ones(())
    return x.shape == exact.shape and bool(((x.double() - exact).abs() <= 0.2 * largest).all())


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


def _stirred(network: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=0.1)
    return network


def _loss(case: Case, network: nn.Module, seed: int) -> Tensor:
    """A weighted sum of all that is given, so that nothing cancels."""
    generator = torch.Generator().manual_seed(seed)
    try:
        out = case.run_with_gradients(network, case.tensors(torch.float64, seed))
    except Exception as error:
        raise _broken(case, "gradients", f"it raises {told(error)}") from error
    terms = [(x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in out]
    loss = torch.stack(terms).sum()
    if not loss.requires_grad:
        raise _broken(case, "gradients", "nothing that it gives depends on its parameters")
    return loss
