"""Modules: how they are built and called, and their state."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partialmethod
from inspect import Parameter, signature
from io import BytesIO
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from composer.testing.inputs import Size

BLOCK_SIZE = 16411
"""Random numbers drawn for a large tensor, which repeats them: a prime, so that rows of a weight differ."""


def build_seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """Build a module in eval mode, with the same weights every time; torch's random state is kept."""
    draws: dict[str, Any] = {name: partialmethod(_fill, getattr(Tensor, name)) for name in ("uniform_", "normal_")}
    with torch.random.fork_rng(devices=[]), patch.multiple(Tensor, **draws):
        torch.default_generator.manual_seed(0)
        return make().eval()


def _fill(tensor: Tensor, draw: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """Fill a tensor with repeated draws, because drawing is most of a build's time."""
    count = tensor.numel()
    block = draw(tensor.new_empty(min(count, BLOCK_SIZE)), *args, **kwargs)
    with torch.no_grad():
        return tensor.copy_(block.repeat(-(-count // BLOCK_SIZE))[:count].view(tensor.shape))


def call_module(
    network: nn.Module, inputs: Sequence[Sequence[Tensor]], named: Mapping[str, Sequence[Tensor]], size: Size
) -> tuple[Tensor, ...]:
    """Call a module with a list of tensors for each input, and with `image_size` if it takes that.

    TerraTorch also passes it to a neck that takes any keywords.
    """
    kinds = {name: p.kind for name, p in signature(network.forward).parameters.items()}
    takes_size = "image_size" in kinds or (not named and Parameter.VAR_KEYWORD in kinds.values())
    return to_tensors(network(*inputs, **named, **({"image_size": size} if takes_size else {})))


def to_tensors(out: Any) -> tuple[Tensor, ...]:
    """Return the output of a module as a tuple. Raises TypeError unless it is a tensor or an iterable of tensors."""
    outputs = (out,) if isinstance(out, Tensor) else tuple(out) if isinstance(out, Iterable) else (out,)
    if not all(isinstance(x, Tensor) for x in outputs) or isinstance(out, Mapping):
        raise TypeError(f"a module must return a tensor, or a list or tuple of tensors (got {type(out).__name__})")
    return outputs


# --- state

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
        for key in vars(child).keys() - vars(nn.Module()).keys():
            value = getattr(child, key)
            (saved if _is_persistent(key, value) else caches)[f"{name}.{key}".lstrip(".")] = value
    first, second = ({name: _compute_fingerprint(value) for name, value in state.items()} for state in (saved, caches))
    return first, second


def _is_persistent(name: str, value: Any) -> bool:
    is_list = isinstance(value, list | tuple) and not any(isinstance(entry, Tensor | nn.Module) for entry in value)
    return not name.startswith("_") and (is_list or isinstance(value, bool | int | float | str | bytes | None))


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
