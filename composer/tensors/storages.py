"""The memory that tensors in a file of torch look at, as a pickle mentions it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from attrs import frozen

from composer.tensors.pickled import Named, Outside
from composer.tensors.unreadable import UnreadableError

DTYPES: Mapping[str, torch.dtype] = {
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.BoolStorage": torch.bool,
    "torch.ByteStorage": torch.uint8,
    "torch.CharStorage": torch.int8,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.IntStorage": torch.int32,
    "torch.LongStorage": torch.int64,
    "torch.ShortStorage": torch.int16,
}
"""What torch calls memory that holds numbers of a kind."""


@frozen
class Storage:
    """So many numbers of a kind, under a key of the file's."""

    key: str
    dtype: torch.dtype
    count: int


def storage_of(outside: Outside) -> Storage:
    """The storage that a pickle mentions. Raises UnreadableError where it is none, or of a kind that is not read."""
    match outside.identifier:
        case ("storage", Named(kind), str(key), _, int(count)) | (
            "storage",
            Named(kind),
            str(key),
            _,
            int(count),
            None,
        ) if 0 <= count < 2**63:
            if kind not in DTYPES:
                raise UnreadableError(
                    f"has numbers of a kind that is not read ({kind})",
                    "convert them to floating-point numbers, and save it again",
                )
            return Storage(key, DTYPES[kind], count)
    raise UnreadableError("is damaged (it mentions memory that is none)")
