"""The memory that tensors in a file of torch look at, as a pickle mentions it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from attrs import frozen

from composer.tensors.mentioned import GlobalRef, PersistentRef
from composer.tensors.unreadable import UnreadableError

STORAGE_DTYPES: Mapping[str, torch.dtype] = {
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
    "torch.storage.UntypedStorage": torch.uint8,
}
"""What torch calls memory that holds numbers of a kind. Of what kind the last is, each tensor over it says."""

_UNSUPPORTED_ITEMSIZES = {
    "torch.QInt8Storage": 1,
    "torch.QUInt8Storage": 1,
    "torch.QInt32Storage": 4,
    "torch.QUInt4x2Storage": 1,
}
"""Memory that is not read, and how many bytes a number of it takes: others may lie behind it."""

VIEW_DTYPES: Mapping[str, torch.dtype] = {
    str(dtype): dtype
    for dtype in (
        *STORAGE_DTYPES.values(),
        torch.uint16,
        torch.uint32,
        torch.uint64,
        torch.float8_e4m3fn,
        torch.float8_e4m3fnuz,
        torch.float8_e5m2,
        torch.float8_e5m2fnuz,
    )
}
"""The kinds that tensors may have over memory that says none."""


@frozen
class Storage:
    """So many numbers of a kind, under a key of the file's."""

    key: str
    dtype: torch.dtype
    count: int


def parse_storage(outside: PersistentRef) -> Storage:
    """The storage that a pickle mentions. Raises UnreadableError where it is none, or of a kind that is not read."""
    key, kind, count = _parse_storage_ref(outside)
    if kind not in STORAGE_DTYPES:
        raise _build_dtype_error(kind)
    return Storage(key, STORAGE_DTYPES[kind], count)


def apply_dtype(storage: Storage, kind: Any) -> Storage:
    """The same memory as numbers of another kind, which a pickle names: `torch.float8_e5m2`."""
    if not isinstance(kind, GlobalRef):
        raise UnreadableError("is damaged (it has numbers of no kind)")
    if kind.name not in VIEW_DTYPES:
        raise _build_dtype_error(kind.name)
    dtype = VIEW_DTYPES[kind.name]
    count, rest = divmod(storage.count * storage.dtype.itemsize, dtype.itemsize)
    if rest:
        raise UnreadableError("is damaged (it has half a number)")
    return Storage(storage.key, dtype, count)


def collect_itemsizes(outside: Iterable[PersistentRef]) -> dict[str, int]:
    """How many bytes a number of each storage takes, by key. What else stands outside, as a source text, is none."""
    sizes = {}
    for mentioned in outside:
        if isinstance(mentioned.identifier, tuple) and mentioned.identifier[:1] == ("storage",):
            key, kind, _ = _parse_storage_ref(mentioned)
            sizes[key] = (
                STORAGE_DTYPES[kind].itemsize if kind in STORAGE_DTYPES else _UNSUPPORTED_ITEMSIZES.get(kind, 0)
            )
            if not sizes[key]:
                raise _build_dtype_error(kind)
    return sizes


def _parse_storage_ref(outside: PersistentRef) -> tuple[str, str, int]:
    """The key, the kind and the count that a pickle tells of a storage."""
    match outside.identifier:
        case ("storage", GlobalRef(kind), str(key), _, int(count)) | (
            "storage",
            GlobalRef(kind),
            str(key),
            _,
            int(count),
            None,
        ) if 0 <= count < 2**63:
            return key, kind, count
    raise UnreadableError("is damaged (it mentions memory that is none)")


def _build_dtype_error(kind: str) -> UnreadableError:
    return UnreadableError(
        f"has numbers of a kind that is not read ({kind})", "convert them to floating-point numbers, and save it again"
    )
