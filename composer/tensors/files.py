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
from composer.tensors.safetensors_files import of_safetensors
from composer.tensors.stored import Stored
from composer.tensors.torch_files import UNDER, of_archive, of_stream
from composer.tensors.unreadable import UnreadableError

MOST_SHARED = 4
"""How many times as large as a file its tensors may be: those of one memory are counted each."""

INDEX = ".index.json"
"""The end of the name of a list of shards."""

_WHOLE = "put the tensors of all shards into one dict and save that: torch.save(state, file)"
_EITHER = "give a file of safetensors, or one that torch.save wrote"


@frozen
class Opened:
    """The tensors of an open file by name, and its metadata where it is of safetensors."""

    tensors: Mapping[str, Stored]
    metadata: Mapping[str, str]


@contextmanager
def opened(file: str | PathLike[str], under: Sequence[str] = UNDER) -> Iterator[Opened]:
    """A file of safetensors, or one that torch.save wrote, whose state dict may stand under one of the names `under`.

    Its tensors can be read while it is open. Raises UnreadableError where it cannot be, or holds none by name; what
    is wrong with their numbers is raised where they are read. What else it holds is left alone.
    """
    path = Path(file)
    with _open(path) as stream:
        yield _looked_at(lambda: _of_either(stream, path, under))


def _of_either(stream: BinaryIO, path: Path, under: Sequence[str]) -> Opened:
    if path.name.endswith(INDEX):
        raise UnreadableError("is a list of shards, and not the weights themselves", _WHOLE)
    magic = stream.read(len(streams.MAGIC))
    if magic.startswith(archives.MAGIC):
        return Opened(of_archive(stream, under), {})
    if magic == streams.MAGIC:
        return Opened(of_stream(stream, under), {})
    return Opened(*of_safetensors(stream, path, _EITHER))


@contextmanager
def opened_safetensors(file: str | PathLike[str], repair: str) -> Iterator[Opened]:
    """The same of a file of safetensors alone. `repair` is how to mend that it is none."""
    path = Path(file)
    with _open(path) as stream:
        yield _looked_at(lambda: Opened(*of_safetensors(stream, path, repair)))


def tensors_in(file: str | PathLike[str], under: Sequence[str] = UNDER) -> dict[str, Tensor]:
    """All tensors of a file, in memory that holds no more than them. Those of one memory may share it.

    Raises UnreadableError where the file cannot be read, and where they would come to `MOST_SHARED` times its size.
    """
    with opened(file, under) as found:
        if sum(stored.bytes for stored in found.tensors.values()) > MOST_SHARED * Path(file).stat().st_size:
            raise UnreadableError(
                f"has tensors that come to more than {MOST_SHARED} times its own size",
                "save each in memory of its own: tensor.clone()",
            )
        read = {name: stored.read() for name, stored in found.tensors.items()}
        return {name: tensor if _is_whole(tensor) else tensor.clone() for name, tensor in read.items()}


def _is_whole(tensor: Tensor) -> bool:
    return tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.itemsize


def _open(path: Path) -> BinaryIO:
    with _reading():
        if not path.is_file():
            raise UnreadableError("is a folder" if path.is_dir() else "is no file", "check the path")
        return path.open("rb")


def _looked_at(look: Callable[[], Opened]) -> Opened:
    """What `look` finds in a file. That the file cannot be read is said there, and where a tensor is read."""
    with _reading():
        found = look()
    tensors = {name: evolve(stored, read=partial(_read, stored)) for name, stored in found.tensors.items()}
    return evolve(found, tensors=tensors)


def _read(stored: Stored) -> Tensor:
    with _reading():
        return stored.read()


@contextmanager
def _reading() -> Iterator[None]:
    """What the system says of the file is raised as UnreadableError."""
    try:
        yield
    except OSError as error:
        raise UnreadableError(
            f"cannot be read ({error.strerror or error})", "check the file and its permissions"
        ) from error
