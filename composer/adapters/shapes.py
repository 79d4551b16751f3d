"""Running a network for its shapes alone, on the meta device.

There a norm, an activation or a sum costs a hundred times what a convolution does: torch works out in Python what has
been known before. Without them a network of convolutions runs ten times as fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

ALONE: frozenset[Callable[..., Any]] = frozenset(
    (F.batch_norm, F.group_norm, F.dropout, F.relu, F.relu_, F.relu6, F.hardtanh, F.leaky_relu, F.silu, F.gelu,
     F.sigmoid, F.hardswish, F.hardsigmoid, torch.relu, torch.relu_, torch.sigmoid, Tensor.sigmoid, Tensor.sigmoid_)
)  # fmt: skip
"""What gives a tensor of the shape and memory format of its first argument."""

TOGETHER: frozenset[Callable[..., Any]] = frozenset(
    (Tensor.add, Tensor.add_, Tensor.mul, Tensor.mul_, Tensor.sub, Tensor.div, torch.add, torch.mul)
)
"""The same, where the second argument can be spread over the first."""


class ShapesOnly(TorchFunctionMode):
    """A context in which what keeps the shape and the memory format of a tensor gives that very tensor, uncomputed."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """`func` of its arguments, or the first of them where it is like the result."""
        if (func in ALONE and _is_plain(args[:1])) or (func in TOGETHER and _is_plain(args[:2])):
            return args[0]
        if func is F.layer_norm and args:
            return args[0].contiguous()
        return func(*args, **(kwargs or {}))


def _is_plain(operands: Sequence[Any]) -> bool:
    """Whether the first operand is in one of the usual memory formats, and the others are spread over it."""
    if not operands or not isinstance(operands[0], Tensor):
        return False
    first = operands[0]
    usual = first.is_contiguous() or (first.dim() == 4 and first.is_contiguous(memory_format=torch.channels_last))
    return usual and all(_spreads(other.shape, first.shape) for other in operands[1:] if isinstance(other, Tensor))


def _spreads(one: torch.Size, over: torch.Size) -> bool:
    pairs = zip(reversed(one), reversed(over), strict=False)
    return len(one) <= len(over) and all(mine in (1, theirs) for mine, theirs in pairs)
