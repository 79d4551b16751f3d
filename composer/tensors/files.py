"""Files of tensors, of either form: opened, looked at, and read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from os import PathLike
from pathlib import Path
from typing import BinaryIO

from attrs import evolve, frozen
from torch import Tensor

from composer.tensors import archives, streams
from composer.tensors.safetensors_files import read_safetensors
from composer.tensors.stored import StoredTensor
from composer.tensors.torch_files import STATE_DICT_KEYS, read_archive, read_legacy_file
from composer.tensors.unreadable import UnreadableError

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
