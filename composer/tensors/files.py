"""Open files of tensors of either format."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import torch
from attrs import evolve, frozen
from safetensors import SafetensorError, safe_open
from torch import Tensor

from composer.tensors import archives
from composer.tensors import archives as streams
from composer.tensors.archives import STATE_DICT_KEYS, StoredTensor, from_bytes, read_archive, read_legacy_file
from composer.tensors.pickles import SAVE_STATE_DICT_HINT, UnreadableError

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


MAX_SIZE_RATIO = 4
"""How many times as large as a file its tensors may be: those of one memory are counted each."""


SHARD_INDEX_SUFFIX = ".index.json"
"""The end of the name of a list of shards."""


_MERGE_SHARDS_HINT = "put the tensors of all shards into one dict and save that: torch.save(state, file)"


_TENSOR_FILE_HINT = "give a file of safetensors, or one that torch.save wrote"


@frozen
class TensorFile:
    """The tensors of an open file by name, and its metadata where it is of safetensors."""

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]


@contextmanager
def open_tensors(file: str | PathLike[str], under: Sequence[str] = STATE_DICT_KEYS) -> Iterator[TensorFile]:
    """A file of safetensors, or one that torch.save wrote, whose state dict may stand under one of the names `under`.

    Its tensors can be read while it is open. Raises UnreadableError where it cannot be, or holds none by name; what
    is wrong with their numbers is raised where they are read. What else it holds is left alone.
    """
    path = Path(file)
    with _open_file(path) as stream:
        yield _guard_reads(lambda: _read_any_format(stream, path, under))


def _read_any_format(stream: BinaryIO, path: Path, under: Sequence[str]) -> TensorFile:
    if path.name.endswith(SHARD_INDEX_SUFFIX):
        raise UnreadableError("is a list of shards, and not the weights themselves", _MERGE_SHARDS_HINT)
    magic = stream.read(len(streams.LEGACY_MAGIC))
    if magic.startswith(archives.ZIP_MAGIC):
        return TensorFile(read_archive(stream, under), {})
    if magic == streams.LEGACY_MAGIC:
        return TensorFile(read_legacy_file(stream, under), {})
    return TensorFile(*read_safetensors(stream, path, _TENSOR_FILE_HINT))


@contextmanager
def open_safetensors(file: str | PathLike[str], repair: str) -> Iterator[TensorFile]:
    """The same of a file of safetensors alone. `repair` is how to mend that it is none."""
    path = Path(file)
    with _open_file(path) as stream:
        yield _guard_reads(lambda: TensorFile(*read_safetensors(stream, path, repair)))


def read_tensor_file(file: str | PathLike[str], under: Sequence[str] = STATE_DICT_KEYS) -> dict[str, Tensor]:
    """All tensors of a file, in memory that holds no more than them. Those of one memory may share it.

    Raises UnreadableError where the file cannot be read, and where they would come to `MOST_SHARED` times its size.
    """
    with open_tensors(file, under) as found:
        if sum(stored.bytes for stored in found.tensors.values()) > MAX_SIZE_RATIO * Path(file).stat().st_size:
            raise UnreadableError(
                f"has tensors that come to more than {MAX_SIZE_RATIO} times its own size",
                "save each in memory of its own: tensor.clone()",
            )
        read = {name: stored.read() for name, stored in found.tensors.items()}
        return {name: tensor if _is_compact(tensor) else tensor.clone() for name, tensor in read.items()}


def _is_compact(tensor: Tensor) -> bool:
    return tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.itemsize


def _open_file(path: Path) -> BinaryIO:
    with _convert_os_errors():
        if not path.is_file():
            raise UnreadableError("is a folder" if path.is_dir() else "is no file", "check the path")
        return path.open("rb")


def _guard_reads(look: Callable[[], TensorFile]) -> TensorFile:
    """What `look` finds in a file. That the file cannot be read is said there, and where a tensor is read."""
    with _convert_os_errors():
        found = look()
    tensors = {name: evolve(stored, read=partial(_read_stored, stored)) for name, stored in found.tensors.items()}
    return evolve(found, tensors=tensors)


def _read_stored(stored: StoredTensor) -> Tensor:
    with _convert_os_errors():
        return stored.read()


@contextmanager
def _convert_os_errors() -> Iterator[None]:
    """What the system says of the file is raised as UnreadableError."""
    try:
        yield
    except OSError as error:
        raise UnreadableError(
            f"cannot be read ({error.strerror or error})", "check the file and its permissions"
        ) from error
