"""The tensors of a file of safetensors, and its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from composer.tensors.stored import StoredTensor, from_bytes
from composer.tensors.unreadable import SAVE_STATE_DICT_HINT, UnreadableError

MAX_HEADER_BYTES = 2**24
"""How many bytes the names, kinds and shapes may have. A tensor has some 150, so this is of 100,000."""

SAFETENSORS_DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
}
"""safetensors' names of kinds, as torch's."""


def read_safetensors(file: BinaryIO, path: Path, repair: str) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors and the metadata of a file. Raises UnreadableError, with `repair`, where it is no such file."""
    file.seek(0)
    _refuse_other_formats(file.read(len(_LFS_POINTER)), repair)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER_BYTES and length + 8 <= file.seek(0, 2):
        raise UnreadableError(f"has a header of more than {MAX_HEADER_BYTES:,} bytes", repair)
    try:
        # safetensors' own reader judges all that the header says.
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise UnreadableError(f"is no safetensors file ({error})", repair) from error
    file.seek(8)
    header = json.loads(file.read(length))
    metadata = header.pop("__metadata__", None) or {}
    return {name: _parse_tensor(file, name, told, 8 + length) for name, told in header.items()}, metadata


_LFS_POINTER = b"version https://git-lfs."


def _refuse_other_formats(start: bytes, repair: str) -> None:
    """Raise UnreadableError for what is often found in the place of such a file, by its first bytes.

    As the length of a header, those of a text are more than any file has, and those of a pickle more than is read.
    """
    if start == _LFS_POINTER:
        raise UnreadableError("is a pointer of git-lfs, and not the file itself", "fetch the file: git lfs pull")
    if start.isascii() and start[:8].decode("ascii").isprintable() and len(start) >= 8:
        raise UnreadableError("is a text", repair)
    if start[:1] == b"\x80" and any(start[3:8]):
        raise UnreadableError(
            "is a pickle, but not of the form that torch.save writes by default", SAVE_STATE_DICT_HINT
        )


def _parse_tensor(file: BinaryIO, name: str, told: Mapping[str, Any], start: int) -> StoredTensor:
    if told["dtype"] not in SAFETENSORS_DTYPES:
        raise UnreadableError(
            f"has {name} of a kind that is not read ({told['dtype']})",
            "convert it to floating-point numbers, and save it again",
        )
    dtype, shape = SAFETENSORS_DTYPES[told["dtype"]], tuple(told["shape"])
    begin, end = (start + offset for offset in told["data_offsets"])
    return StoredTensor(dtype, shape, partial(_read_numbers, file, begin, end, dtype, shape))


def _read_numbers(file: BinaryIO, begin: int, end: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The numbers of a tensor. That safetensors could read them too is no help: it makes an error of Ctrl-C."""
    numbers = bytearray(end - begin)
    file.seek(begin)
    if file.readinto(numbers) != len(numbers):  # type: ignore[attr-defined]
        raise UnreadableError("is damaged (it is cut off)")
    return from_bytes(numbers, dtype, shape)
