"""The tensors of what torch.save wrote: a state dict, or a checkpoint that holds one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any, BinaryIO

import torch
from attrs import define, field
from torch import Tensor

from composer.tensors.archives import Archive
from composer.tensors.mentioned import GlobalRef, PersistentRef, ReducedCall
from composer.tensors.pickled import read_pickle, refuse_long_pickle
from composer.tensors.storages import Storage, apply_dtype, parse_storage
from composer.tensors.stored import StoredTensor, from_bytes
from composer.tensors.streams import LegacyFile
from composer.tensors.unreadable import SAVE_STATE_DICT_HINT, UnreadableError

STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")
"""Where a checkpoint may hold the state dict, if it is not the state dict itself."""

_EMA_SUFFIX = "_ema"
"""How the names end under which timm keeps averaged weights."""

_REBUILD_TENSOR_V3 = GlobalRef("torch._utils._rebuild_tensor_v3")
_TENSOR_REBUILDERS = (
    GlobalRef("torch._utils._rebuild_tensor_v2"),
    GlobalRef("torch._utils._rebuild_tensor"),
    _REBUILD_TENSOR_V3,
)
_REBUILD_WITH_ATTRIBUTES = GlobalRef("torch._tensor._rebuild_from_type_v2")
_PARAMETER_REBUILDERS = (
    GlobalRef("torch._utils._rebuild_parameter"),
    GlobalRef("torch._utils._rebuild_parameter_with_state"),
)
_RESOLVE_HINT = "save its tensors as they are: tensor.resolve_conj().resolve_neg()"
_DENSE_HINT = "save it as a plain tensor: tensor.to_dense(), or tensor.dequantize()"
_CLONE_HINT = "save it in memory of its own: tensor.clone()"


def read_archive(file: BinaryIO, under: Sequence[str]) -> dict[str, StoredTensor]:
    """The tensors of a file of torch 1.6 or later."""
    archive = Archive(file)
    refuse_long_pickle(archive.size_of("data.pkl"))
    state = _select_state_dict(read_pickle(bytes(archive.read("data.pkl"))), under)

    def get_size(key: str) -> int:
        return archive.size_of(f"data/{key}")

    return _build_tensors(state, _StorageReader(archive.size, get_size, lambda key: archive.read(f"data/{key}")))


def read_legacy_file(file: BinaryIO, under: Sequence[str]) -> dict[str, StoredTensor]:
    """The tensors of a file of an earlier torch."""
    stream = LegacyFile(file)
    return _build_tensors(
        _select_state_dict(stream.content, under), _StorageReader(stream.size, stream.size_of, stream.read)
    )


def _select_state_dict(content: Any, under: Sequence[str]) -> dict[str, ReducedCall]:
    """The state dict that a file holds. Raises UnreadableError where that is none.

    Where several stand in it, that is the first of `under`. Without any of those, or where another network may stand
    beside it, that is all of them, by the name of each. Averaged weights are taken as timm takes them: unasked.
    """
    held = _get_entries(content)
    chosen = next((name for name in under if _get_entries(held.get(name))), None)
    inner = _find_state_dicts(held)
    beside = [state for name, state in inner.items() if name != chosen]
    state = held if chosen is None else _get_entries(held[chosen])
    if chosen is None or (chosen in inner and not chosen.endswith(_EMA_SUFFIX) and _has_rival(state, beside)):
        state = {f"{outer}.{name}": tensor for outer in inner for name, tensor in inner[outer].items()} or held
    others = [name for name, value in state.items() if name is None or not _is_tensor(value)]
    for name in others:
        if _is_unsupported_tensor(state[name]):
            raise _build_layout_error(name)
    if not state or len(others) == len(state):
        raise UnreadableError("holds no tensors by name", SAVE_STATE_DICT_HINT)
    if others:
        listed = ", ".join("a key that is no text" if name is None else name for name in others[:3])
        more = ", …" if len(others) > 3 else ""
        raise UnreadableError(
            f"holds tensors by name beside {len(others)} that are none ({listed}{more})", SAVE_STATE_DICT_HINT
        )
    return state


def _find_state_dicts(held: Mapping[Any, Any]) -> dict[str, dict[Any, Any]]:
    """The state dicts in a dict without tensors of its own, by name: those of `teacher` and `student`."""
    if any(map(_is_tensor, held.values())):
        return {}
    inner = {outer: _get_entries(value) for outer, value in held.items() if isinstance(outer, str)}
    return {
        outer: state
        for outer, state in inner.items()
        if all(isinstance(name, str) and _is_tensor(tensor) for name, tensor in state.items())
    }


def _has_rival(state: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> bool:
    """Whether one of the others may be a network too: a few tensors are the mean of the images, or class weights."""
    return any(2 * len(other) >= len(state) for other in others)


def _get_entries(value: Any) -> dict[Any, Any]:
    """What a dict holds, of whatever class it is."""
    if isinstance(value, dict):
        return value
    return value.entries if isinstance(value, ReducedCall) else {}


def _is_tensor(value: Any) -> bool:
    return isinstance(value, ReducedCall) and _strip_attributes(value).made_by in (
        *_TENSOR_REBUILDERS,
        *_PARAMETER_REBUILDERS,
    )


def _is_unsupported_tensor(value: Any) -> bool:
    """Whether it is a tensor of another layout: sparse, quantised, nested."""
    return (
        isinstance(value, ReducedCall)
        and isinstance(value.made_by, GlobalRef)
        and value.made_by.name.startswith("torch._utils._rebuild_")
        and not _is_tensor(value)
    )


def _build_layout_error(name: str | None) -> UnreadableError:
    return UnreadableError(f"has {name or 'a tensor without a name'} of a kind that is not read", _DENSE_HINT)


def _strip_attributes(made: ReducedCall) -> ReducedCall:
    """The call that makes a tensor, without what puts attributes on it: the mark of an nn.Buffer, and others."""
    match made:
        case ReducedCall(made_by, (inner, _, arguments, _)) if (
            made_by == _REBUILD_WITH_ATTRIBUTES and inner in _TENSOR_REBUILDERS
        ):
            return ReducedCall(inner, arguments)
    return made


@define
class _StorageReader:
    """The memory that tensors look at: `size_of` and `read` are by key. What several look at is read once."""

    file_size: int
    size_of: Callable[[str], int]
    read: Callable[[str], bytearray]
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


def _build_tensors(state: dict[str, ReducedCall], storages: _StorageReader) -> dict[str, StoredTensor]:
    """The tensors of a state dict. All that is said of them has been held against the file, and nothing is read."""
    return {name: _build_tensor(name, made, storages) for name, made in state.items()}


def _build_tensor(name: str, made: ReducedCall, storages: _StorageReader) -> StoredTensor:
    """What a call of torch's own function would have made."""
    inner = made.arguments[0] if made.made_by in _PARAMETER_REBUILDERS and _has_arguments(made.arguments) else made
    match _strip_attributes(inner) if isinstance(inner, ReducedCall) else inner:
        case ReducedCall(made_by, (PersistentRef() as outside, int(offset), tuple(size), tuple(stride), *rest)) if (
            made_by in _TENSOR_REBUILDERS
        ):
            # Whether it wants a gradient, and hooks, say nothing of its numbers; then its kind may be told.
            kind, more = (rest[2:3], rest[3:]) if made_by == _REBUILD_TENSOR_V3 else ([], rest[2:])
            if any(more):
                raise UnreadableError(f"has {name}, whose numbers are conjugate or negated", _RESOLVE_HINT)
            storage = parse_storage(outside)
            if storages.size_of(storage.key) != storage.count * storage.dtype.itemsize:
                raise UnreadableError(
                    f"is damaged ({name} is of {storage.count} numbers, which are not "
                    f"{storages.size_of(storage.key)} bytes)"
                )
            if made_by == _REBUILD_TENSOR_V3:
                storage = apply_dtype(storage, *(kind or [None]))
            if not _is_view_within(storage.count, offset, size, stride):
                raise UnreadableError(f"is damaged ({name} looks at numbers that are not there)")
            if prod(size) > storages.file_size:
                raise UnreadableError(f"has {name}, which shows few numbers many times over", _CLONE_HINT)
            return StoredTensor(storage.dtype, size, partial(storages.view, storage, size, stride, offset))
    if _is_unsupported_tensor(inner):
        raise _build_layout_error(name)
    raise UnreadableError(f"is damaged ({name} is not made as torch makes a tensor)")


def _has_arguments(arguments: Any) -> bool:
    return isinstance(arguments, tuple) and bool(arguments)


def _is_view_within(count: int, offset: int, size: Sequence[Any], stride: Sequence[Any]) -> bool:
    """Whether a view of so many numbers stays among them."""
    if len(size) != len(stride) or len(size) > 64:
        return False
    if not all(isinstance(number, int) and 0 <= number < 2**63 for number in (offset, *size, *stride)):
        return False
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    return last < count if all(size) else offset <= count
