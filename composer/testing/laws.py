"""The laws that a contract and its module keep."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from types import MappingProxyType
from typing import Any

import torch
from attrs import evolve
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from composer.parts.rules import Rejection
from composer.testing.failures import format_error, format_tensor_shape, format_worst_difference
from composer.testing.numerics import check_gradients, check_precision
from composer.testing.runs import Case, build_network, build_violation, run_case, run_checked

Fingerprints = dict[str, Any]
"""Of each thing that is held, by its name, something that equals that of another time where nothing was changed."""


MAX_FINGERPRINT_DEPTH = 6
"""How deep lists in lists are looked into; what lies deeper, or leads back, is not compared."""


_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))


_PLAIN_TYPES = (bool, int, float, str, bytes, type(None))


def get_persistent_state(network: nn.Module) -> Fingerprints:
    """The state that is saved, and the public flags, counts, sizes and lists of them that a module and its children
    hold beside it: a run in eval mode leaves all of them as they are.
    """
    saved = {name: _compute_fingerprint(value) for name, value in network.state_dict().items()}
    return saved | {
        name: _compute_fingerprint(value) for name, value in _iter_attributes(network) if _is_persistent(name, value)
    }


def get_transient_state(network: nn.Module) -> Fingerprints:
    """All else: buffers that are not saved, tensors, arrays, dicts, sets, and private names. Those may be caches, which
    a run fills, and which the same runs once more leave as they are.
    """
    saved = network.state_dict()
    buffers = {name: _compute_fingerprint(value) for name, value in network.named_buffers() if name not in saved}
    return buffers | {
        name: _compute_fingerprint(value)
        for name, value in _iter_attributes(network)
        if not _is_persistent(name, value)
    }


def list_changes(before: Fingerprints, after: Fingerprints) -> list[str]:
    """What differs, in words: the names of what has other values, has appeared, or is gone."""
    return [
        name if name in before and name in after else f"{name} (which {'appeared' if name in after else 'is gone'})"
        for name in dict.fromkeys((*before, *after))
        if name not in before or name not in after or before[name] != after[name]
    ]


def _iter_attributes(network: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, child in network.named_modules():
        for key, value in vars(child).items():
            if key not in _MODULE_ATTRIBUTES:
                yield f"{name}.{key}".lstrip("."), value


def _is_persistent(name: str, value: Any) -> bool:
    if name.rpartition(".")[2].startswith("_"):
        return False
    if isinstance(value, list | tuple):
        return not any(isinstance(one, Tensor | nn.Module) for one in value)
    return isinstance(value, _PLAIN_TYPES)


def _compute_fingerprint(value: Any, depth: int = 0) -> Any:
    """What equals the picture of another value where both are alike: bits of numbers, so that NaN equals itself."""
    if isinstance(value, Tensor):
        return _compute_tensor_fingerprint(value)
    if isinstance(value, _PLAIN_TYPES):
        return type(value), repr(value)
    if hasattr(value, "tobytes") and hasattr(value, "shape"):
        return type(value), value.shape, str(value.dtype), value.tobytes()
    if depth == MAX_FINGERPRINT_DEPTH:
        return None
    if isinstance(value, Mapping):
        return type(value), tuple((repr(key), _compute_fingerprint(one, depth + 1)) for key, one in value.items())
    if isinstance(value, set | frozenset):
        return type(value), frozenset(_list_fingerprints(value, depth))
    if isinstance(value, list | tuple):
        return type(value), tuple(_list_fingerprints(value, depth))
    return None  # a module, a function, whatever else: it is not known how to compare it


def _list_fingerprints(values: Iterable[Any], depth: int) -> list[Any]:
    return [_compute_fingerprint(one, depth + 1) for one in values]


def _compute_tensor_fingerprint(x: Tensor) -> Any:
    if is_lazy(x):
        return "lazy"
    if x.layout is not torch.strided or x.is_meta or x.is_quantized:
        return str(x)
    flat = x.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return x.dtype, tuple(x.shape), flat.view(torch.uint8).numpy().tobytes()


Law = Callable[[Case], None]


def check_shapes(case: Case) -> None:
    """In eval mode and in train mode a forward pass gives the features that were promised, in number and shape."""
    network = build_network(case)
    run_checked(case, "shapes", network, case.tensors())
    if case.batch > 1:  # of a single value no norm can learn its statistics
        with torch.random.fork_rng(devices=[]):
            run_checked(case, "shapes", network.train(), case.tensors(), of="in train mode ")


def check_inputs_unchanged(case: Case) -> None:
    """The lists that a module is fed, and the tensors in them, are afterwards what they were; in train mode too."""
    network = build_network(case)
    _compare_inputs(case, network)
    if case.batch > 1:
        with torch.random.fork_rng(devices=[]):
            _compare_inputs(case, network.train(), "in train mode ")


def _compare_inputs(case: Case, network: nn.Module, of: str = "") -> None:
    tensors = case.tensors()
    lists, values = [list(one) for one in tensors], deepcopy(tensors)
    run_case(case, "inputs", network, tensors, of=of)
    for fed, kept, before in zip(tensors, lists, values, strict=True):
        if len(fed) != len(kept) or any(one is not other for one, other in zip(fed, kept, strict=True)):
            raise build_violation(case, "inputs", f"{of}the list that it is fed is another one afterwards")
        if not all(map(torch.equal, fed, before)):
            raise build_violation(case, "inputs", f"{of}a tensor that it is fed has other values afterwards")


def check_state_unchanged(case: Case) -> None:
    """In eval mode a run changes nothing that the module holds: weights, statistics, flags; nor random states.

    A cache may be filled: a buffer that is not saved, a tensor, a dict, a set or a private attribute, which the same
    runs once more leave as they are.
    """
    network, odd = build_network(case), _extend_batch(case)
    before, drawn = get_persistent_state(network), torch.get_rng_state()
    filled: dict[str, Any] = {}
    changed: list[str] = []
    for turn in range(2):
        for one in (case, odd):
            run_case(one, "itself", network, one.tensors())
        changed = list_changes(before, get_persistent_state(network)) + (
            list_changes(filled, get_transient_state(network)) if turn else []
        )
        filled = get_transient_state(network)
        if changed:
            raise build_violation(case, "itself", f"two runs in eval mode changed {', '.join(changed)}")
    if not torch.equal(torch.get_rng_state(), drawn):
        raise build_violation(case, "itself", "a run in eval mode drew from torch's random state")


def check_determinism(case: Case) -> None:
    """In eval mode the same input gives the same numbers again, also after an image of another size and number."""
    network, odd = build_network(case), _extend_batch(case)
    first = run_case(case, "again", network, case.tensors())
    run_case(odd, "again", network, odd.tensors())
    second = run_case(case, "again", network, case.tensors())
    if not _are_outputs_equal(first, second, exactly=True):
        beside = format_worst_difference(("first", first), ("then", second))
        raise build_violation(case, "again", "the same input gives something else the second time", beside)


def check_batching(case: Case) -> None:
    """In eval mode what a batch gives is what its images give one by one."""
    network = build_network(case, torch.float64)
    together = run_case(case, "batch", network, case.tensors(torch.float64))
    axes = [f.axes.split().index("b") for f in case.get_expected_features()]
    for index in range(case.batch):
        one = run_case(case, "batch", network, _pick_image(case, case.tensors(torch.float64), index))
        alone = [x.narrow(axis, index, 1) for x, axis in zip(together, axes, strict=False)]
        if not _are_outputs_equal(alone, one):
            beside = format_worst_difference(("in the batch", alone), ("alone", one))
            raise build_violation(case, "batch", f"image {index} of the batch gives something else alone", beside)


def check_memory_format(case: Case) -> None:
    """Channels last in memory, or not contiguous, the same numbers give the same numbers."""
    network = build_network(case, torch.float64)
    expected = run_case(case, "memory", network, case.tensors(torch.float64))
    for way, change in (
        ("channels last in memory", _to_channels_last),
        ("not contiguous in memory", _to_noncontiguous),
    ):
        fed = [[change(x) for x in one] for one in case.tensors(torch.float64)]
        out = run_case(case, "memory", network, fed, of=f"{way} ")
        if not _are_outputs_equal(expected, out):
            beside = format_worst_difference(("contiguous", expected), (way.removesuffix(" in memory"), out))
            raise build_violation(case, "memory", f"{way}, the same input gives other numbers", beside)


def check_forced_rejection(case: Case) -> None:
    """Forced through, what is refused as impossible raises, and what is refused by policy runs."""
    assert isinstance(case.outcome, Rejection)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parameters without numbers, and the like
            out = case.run(case.module(), case.tensors())
    except Exception as error:
        if case.outcome.kind == "policy":
            what = f"it {case.outcome.expected}, by policy; forced, it raises {format_error(error)}"
            raise build_violation(case, "refusals", what) from error
        return
    if case.outcome.kind == "raises":
        got = ", ".join(format_tensor_shape(tuple(x.shape)) for x in out)
        raise build_violation(
            case, "refusals", f"it {case.outcome.expected}, and calls all else impossible; forced, it gives {got}"
        )


LAWS: Mapping[str, Law] = MappingProxyType(
    {
        "shapes": check_shapes,
        "inputs": check_inputs_unchanged,
        "again": check_determinism,
        "itself": check_state_unchanged,
        "batch": check_batching,
        "memory": check_memory_format,
        "precision": check_precision,
        "gradients": check_gradients,
    }
)
"""The laws of what is accepted, by the names that failures and tests have for them."""


REJECTIONS_LAW = "refusals"
"""The law of what is refused: `check_forced_rejection`."""


def _extend_batch(case: Case) -> Case:
    """The run with one image more: an odd one out between two that are alike."""
    return evolve(case, batch=case.batch + 1)


def _are_outputs_equal(one: Any, other: Any, *, exactly: bool = False) -> bool:
    if len(one) != len(other):
        return False
    same: Callable[[Tensor, Tensor], bool] = _is_equal if exactly else _is_close
    return all(x.shape == y.shape and same(x, y) for x, y in zip(one, other, strict=True))


def _is_equal(x: Tensor, y: Tensor) -> bool:
    return torch.allclose(x, y, rtol=0, atol=0, equal_nan=True)


def _is_close(x: Tensor, y: Tensor) -> bool:
    return torch.allclose(x, y, rtol=1e-6, atol=1e-8, equal_nan=True)


def _pick_image(case: Case, tensors: Any, index: int) -> list[list[Tensor]]:
    return [
        [x.narrow(f.axes.split().index("b"), index, 1) for x, f in zip(one, features, strict=True)]
        for one, features in zip(tensors, case.inputs.all, strict=True)
    ]


def _to_channels_last(x: Tensor) -> Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=formats[x.dim()]) if x.dim() in formats else x


def _to_noncontiguous(x: Tensor) -> Tensor:
    return torch.stack([x, x], dim=-1)[..., 0]
