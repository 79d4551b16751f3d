"""The state of a module: what a run in eval mode must keep, and what may be a cache."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import torch
from torch import Tensor, nn

_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))

_PLAIN_TYPES = (bool, int, float, str, bytes, type(None))

State = Mapping[str, bytes | None]
"""A fingerprint of each value, by its name; None for values that cannot be compared."""


def get_state(network: nn.Module) -> tuple[State, State]:
    """Return what a run must keep, and what may be a cache.

    A run must keep the `state_dict`, and public attributes that hold plain values or lists of them. Other attributes
    and unsaved buffers may be caches.
    """
    saved = network.state_dict()
    caches = {name: value for name, value in network.named_buffers() if name not in saved}
    for name, child in network.named_modules():
        for key, value in vars(child).items():
            if key not in _MODULE_ATTRIBUTES:
                (saved if _is_persistent(key, value) else caches)[f"{name}.{key}".lstrip(".")] = value
    return _compute_fingerprints(saved), _compute_fingerprints(caches)


def _compute_fingerprints(state: Mapping[str, Any]) -> State:
    return {name: _compute_fingerprint(value) for name, value in state.items()}


def _is_persistent(name: str, value: Any) -> bool:
    if name.startswith("_"):
        return False
    if isinstance(value, list | tuple):
        return not any(isinstance(entry, Tensor | nn.Module) for entry in value)
    return isinstance(value, _PLAIN_TYPES)


def list_changes(before: State, after: State) -> list[str]:
    """Return the names of the values that differ, have appeared or are gone."""
    return [name for name in dict.fromkeys((*before, *after)) if before.get(name) != after.get(name)]


class _FingerprintPickler(pickle.Pickler):
    """Pickle tensors by their numbers, NaN included, wherever they are stored."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        return tuple, ([str(value.dtype), *value.shape, flat.view(torch.uint8).numpy().tobytes()],)


def _compute_fingerprint(value: Any) -> bytes | None:
    stream = BytesIO()
    pickler = _FingerprintPickler(stream)
    pickler.fast = True  # without a memo, by which equal contents differ
    try:
        pickler.dump(value)
    except Exception:  # objects may refuse to be pickled in any way
        return None
    return stream.getvalue()
