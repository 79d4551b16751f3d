"""A tensor that lies in a file: its kind and shape are known, and its numbers are read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from attrs import frozen
from torch import Tensor


@frozen
class StoredTensor:
    """A tensor in a file that is open. `read` gives it, and raises UnreadableError where its numbers are damaged."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    @property
    def bytes(self) -> int:
        """How much memory it takes, which it may share with others in the file."""
        return prod(self.shape) * self.dtype.itemsize


def describe_tensor(tensor: Tensor | StoredTensor) -> str:
    """What a tensor is, in words: `float32 [64, 3, 7, 7]`."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def from_bytes(numbers: bytearray, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """The tensor of numbers as they stand in memory, which it looks at."""
    if not prod(shape):
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(numbers, dtype=dtype).view(shape)
