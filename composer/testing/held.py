"""What a module holds: what is saved and said of it, which no run may change, and what it keeps to save itself work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

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
