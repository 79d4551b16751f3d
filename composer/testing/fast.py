"""What makes the laws fast: random numbers drawn in blocks, and products in half precision by single precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

BLOCK_SIZE = 4099
"""Numbers drawn for a larger tensor, which repeats them: a prime, so that no two rows of a weight are equal."""

_CONVOLUTIONS = {getattr(F, f"conv{kind}{count}d") for kind in ("", "_transpose") for count in (1, 2, 3)}
_PRODUCTS = _CONVOLUTIONS | {F.linear}


@contextmanager
def draw_in_blocks() -> Iterator[None]:
    """Fill large tensors with a repeated block of random numbers: drawing weights is most of building a module."""
    uniform, normal = _wrap_draw(Tensor.uniform_), _wrap_draw(Tensor.normal_)
    with patch.object(Tensor, "uniform_", uniform), patch.object(Tensor, "normal_", normal):
        yield


def _wrap_draw(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def fill(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        count = tensor.numel()
        if count <= BLOCK_SIZE or not tensor.is_contiguous() or (tensor.requires_grad and torch.is_grad_enabled()):
            return draw(tensor, *args, **kwargs)
        block = draw(tensor.new_empty(BLOCK_SIZE), *args, **kwargs)
        tensor.view(-1).copy_(block.repeat(-(-count // BLOCK_SIZE))[:count])
        return tensor

    return fill


class HalfPrecisionEmulation(TorchFunctionMode):
    """Compute convolutions and linear layers of halves in single precision, and round: as devices do it.

    Processors may take thirty times as long in half precision.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)] if func in _PRODUCTS else []
        dtypes = {x.dtype for x in tensors}
        if len(dtypes) == 1 and dtypes < {torch.bfloat16, torch.float16}:
            named = {name: _to_single(x) for name, x in kwargs.items()}
            return func(*map(_to_single, args), **named).to(tensors[0].dtype)
        return func(*args, **kwargs)


def _to_single(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) else x
