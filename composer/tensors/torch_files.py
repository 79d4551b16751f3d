"""The tensors of what torch.save wrote: a state dict, or a checkpoint that holds one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any, BinaryIO

import torch
from attrs import define, field
from torch import Tensor

from composer.tensors.archives import Archive
from composer.tensors.pickled import Made, Named, Outside, read_pickle
from composer.tensors.storages import Storage, storage_of
from composer.tensors.stored import Stored, from_bytes
from composer.tensors.streams import Stream
from composer.tensors.unreadable import UnreadableError

UNDER = ("state_dict", "model_state_dict", "model")
"""Where a checkpoint may hold the state dict, if it is not the state dict itself."""

_TENSORS = (Named("torch._utils._rebuild_tensor_v2"), Named("torch._utils._rebuild_tensor"))
_PARAMETERS = (Named("torch._utils._rebuild_parameter"), Named("torch._utils._rebuild_parameter_with_state"))
_PLAINLY = "save its tensors as they are: tensor.resolve_conj().resolve_neg()"
_NO_STATE = "save the state dict: torch.save(model.state_dict(), file)"


def of_archive(file: BinaryIO, under: Sequence[str]) -> dict[str, Stored]:
    """The tensors of a file of torch 1.6 or later."""
    archive = Archive(file)
    state = _state(read_pickle(archive.read("data.pkl")), under)

    def size_of(key: str) -> int:
        return archive.size_of(f"data/{key}")

    return _stored(state, _Storages(archive.size, size_of, lambda key: archive.read(f"data/{key}")))


def of_stream(file: BinaryIO, under: Sequence[str]) -> dict[str, Stored]:
    """The tensors of a file of an earlier torch."""
    stream = Stream(file)
    return _stored(_state(stream.content, under), _Storages(stream.size, stream.size_of, stream.read))


def _state(content: Any, under: Sequence[str]) -> dict[str, Made]:
    """The state dict that a file holds. Raises UnreadableError where that is none, or more than one."""
    held = _entries(content)
    state = next(filter(None, (_entries(held.get(name)) for name in under)), held)
    others = [name for name, value in state.items() if name is None or not _is_tensor(value)]
    if not state or len(others) == len(state):
        raise UnreadableError("holds no tensors by name", _NO_STATE)
    if others:
        listed = ", ".join("a key that is no text" if name is None else name for name in others[:3])
        more = ", …" if len(others) > 3 else ""
        raise UnreadableError(f"holds tensors by name beside {len(others)} that are none ({listed}{more})", _NO_STATE)
    return state


def _entries(value: Any) -> dict[Any, Any]:
    """What a dict holds, of whatever class it is."""
    if isinstance(value, dict):
        return value
    return value.entries if isinstance(value, Made) else {}


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Made) and value.made_by in (*_TENSORS, *_PARAMETERS)


@define
class _Storages:
    """The memory that tensors look at: `size_of` and `read` are by key. What several look at is read once."""

    file_size: int
    size_of: Callable[[str], int]
    read: Callable[[str], bytes]
    known: dict[tuple[str, torch.dtype], Tensor] = field(factory=dict)

    def numbers(self, storage: Storage) -> Tensor:
        """The numbers of a storage."""
        key = (storage.key, storage.dtype)
        if key not in self.known:
            self.known[key] = from_bytes(self.read(storage.key), storage.dtype, (storage.count,))
        return self.known[key]

    def view(self, storage: Storage, size: Sequence[int], stride: Sequence[int], offset: int) -> Tensor:
        """The tensor that looks at some of them."""
        return self.numbers(storage).as_strided(size, stride, offset)


def _stored(state: dict[str, Made], storages: _Storages) -> dict[str, Stored]:
    """The tensors of a state dict. All that is said of them has been held against the file, and nothing is read."""
    return {name: _tensor(name, made, storages) for name, made in state.items()}


def _tensor(name: str, made: Made, storages: _Storages) -> Stored:
    """What a call of torch's own function would have made."""
    inner = made.arguments[0] if made.made_by in _PARAMETERS and _is_some(made.arguments) else made
    match inner:
        case Made(made_by, (Outside() as outside, int(offset), tuple(size), tuple(stride), *rest)) if (
            made_by in _TENSORS
        ):
            if any(rest[2:]):  # after whether it wants a gradient, and hooks, which say nothing of its numbers
                raise UnreadableError(f"has {name}, whose numbers are conjugate or negated", _PLAINLY)
            storage = storage_of(outside)
            if storages.size_of(storage.key) != storage.count * storage.dtype.itemsize:
                raise UnreadableError(
                    f"is damaged ({name} is of {storage.count} numbers, which are not "
                    f"{storages.size_of(storage.key)} bytes)"
                )
            if not _within(storage.count, offset, size, stride) or prod(size) > storages.file_size:
                raise UnreadableError(f"is damaged ({name} looks at numbers that are not there)")
            return Stored(storage.dtype, size, partial(storages.view, storage, size, stride, offset))
    raise UnreadableError(f"is damaged ({name} is not made as torch makes a tensor)")


def _is_some(arguments: Any) -> bool:
    return isinstance(arguments, tuple) and bool(arguments)


def _within(count: int, offset: int, size: Sequence[Any], stride: Sequence[Any]) -> bool:
    """Whether a view of so many numbers stays among them."""
    if len(size) != len(stride) or len(size) > 64:
        return False
    if not all(isinstance(number, int) and 0 <= number < 2**63 for number in (offset, *size, *stride)):
        return False
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    return last < count if all(size) else offset <= count
