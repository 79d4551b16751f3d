"""Running a network for its shapes alone, on the meta device.

There a norm, an activation or a sum costs a hundred times what a convolution does: torch works out in Python what has
been known before. Without them a network of convolutions runs ten times as fast. What torch would refuse is refused:
what does not fit is handed to torch, and where torch overlooks it on the meta device, it is looked at here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

SHAPE_PRESERVING: frozenset[Callable[..., Any]] = frozenset(
    (F.dropout, F.relu, F.relu_, F.relu6, F.hardtanh, F.leaky_relu, F.silu, F.gelu,
     F.sigmoid, F.hardswish, F.hardsigmoid, torch.relu, torch.relu_, torch.sigmoid, Tensor.sigmoid, Tensor.sigmoid_)
)  # fmt: skip
"""What gives a tensor of the shape and memory format of its first argument."""

BROADCASTING: frozenset[Callable[..., Any]] = frozenset(
    (Tensor.add, Tensor.add_, Tensor.mul, Tensor.mul_, Tensor.sub, Tensor.div, torch.add, torch.mul)
)
"""The same, where the second argument can be spread over the first."""


NORMS: frozenset[Callable[..., Any]] = frozenset((F.batch_norm, F.group_norm, F.layer_norm))
"""What gives the same, if its weights are of the right shape."""

TRANSPOSED_CONVS: frozenset[Callable[..., Any]] = frozenset(
    (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
)
"""Convolutions whose channels torch does not compare on the meta device."""


class ShapeInferenceMode(TorchFunctionMode):
    """A context in which what keeps the shape and the memory format of a tensor gives that very tensor, uncomputed."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """`func` of its arguments, or the first of them where it is like the result."""
        if (func in SHAPE_PRESERVING and _is_plain(args[:1])) or (func in BROADCASTING and _is_plain(args[:2])):
            return args[0]
        if func in NORMS and args and isinstance(args[0], Tensor):
            given = {**dict(zip(_list_parameter_names(func), args, strict=False)), **(kwargs or {})}
            if func is F.layer_norm and _is_valid_layer_norm(args[0], given):
                return args[0].contiguous()
            if func is not F.layer_norm and _is_plain(args[:1]) and _is_valid_channel_norm(args[0], given):
                return args[0]
        if func in TRANSPOSED_CONVS and len(args) > 1:
            _check_channels(args[0], args[1])
        return func(*args, **(kwargs or {}))


@cache
def _list_parameter_names(func: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(signature(func).parameters)


def _is_valid_layer_norm(x: Tensor, given: Mapping[str, Any]) -> bool:
    """Whether a layer norm is made for the last axes of `x`."""
    shape = tuple(given["normalized_shape"])
    weights = (given.get("weight"), given.get("bias"))
    return tuple(x.shape[-len(shape) :]) == shape and all(w is None or tuple(w.shape) == shape for w in weights)


def _is_valid_channel_norm(x: Tensor, given: Mapping[str, Any]) -> bool:
    """Whether a batch norm, or a group norm, is made for the channels of `x`, and has more than one value to each."""
    groups = given.get("num_groups", 1)
    if x.dim() < 2 or given.get("training") or x.shape[1] % groups or x.numel() == groups:
        return False
    names = ("running_mean", "running_var", "weight", "bias")
    return all(given.get(name) is None or tuple(given[name].shape) == (x.shape[1],) for name in names)


def _check_channels(x: Tensor, weight: Tensor) -> None:
    channels = x.shape[1 - weight.dim()]
    if channels != weight.shape[0]:
        raise RuntimeError(
            f"Given transposed=1, weight of size {list(weight.shape)}, expected input{list(x.shape)} to have "
            f"{weight.shape[0]} channels, but got {channels} channels instead"
        )


def _is_plain(operands: Sequence[Any]) -> bool:
    """Whether the first operand is in one of the usual memory formats, and the others are spread over it."""
    if not operands or not isinstance(operands[0], Tensor):
        return False
    first = operands[0]
    usual = first.is_contiguous() or (first.dim() == 4 and first.is_contiguous(memory_format=torch.channels_last))
    return usual and all(
        _is_broadcastable(other.shape, first.shape) for other in operands[1:] if isinstance(other, Tensor)
    )


def _is_broadcastable(one: torch.Size, over: torch.Size) -> bool:
    pairs = zip(reversed(one), reversed(over), strict=False)
    return len(one) <= len(over) and all(mine in (1, theirs) for mine, theirs in pairs)
