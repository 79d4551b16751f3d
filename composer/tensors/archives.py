"""Read the tensors of files that torch.save wrote."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any, BinaryIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from attrs import define, field, frozen
from torch import Tensor

from composer.tensors.pickles import (
    MAX_PICKLE_BYTES,
    SAVE_STATE_DICT_HINT,
    GlobalRef,
    PersistentRef,
    PickleResult,
    ReducedCall,
    UnreadableError,
    read_pickle,
    read_pickle_at,
    refuse_long_pickle,
)


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


ZIP_MAGIC = b"PK\x03\x04"


MAX_DIRECTORY_BYTES = 2**23
"""How many bytes the list of records may have. One has sixty, so this is of 140,000, which take half a second."""


_HEADER_SIZE, _ENCRYPTED_FLAG = 30, 1
"""How many bytes stand before the name of a record, and the flag of one that has a password."""


_END_MAGIC, _END_64_MAGIC, _LOCATOR_MAGIC = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"


class Archive:
    """The records of an archive by name, without the folder that they all lie in.

    Raises UnreadableError for one that is larger inside than it is: whose records are compressed, or overlap.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.size = file.seek(0, 2)
        self._file = file
        _check_directory(file, self.size)
        try:
            records = ZipFile(file).infolist()
        except (BadZipFile, NotImplementedError, ValueError, EOFError) as error:
            raise UnreadableError("is damaged (its archive cannot be read)") from error
        if any(record.filename.endswith("/constants.pkl") for record in records):
            raise UnreadableError("is a program that torch.jit wrote", SAVE_STATE_DICT_HINT)
        if any(record.compress_type != ZIP_STORED for record in records) or self.size < sum(
            max(record.file_size, record.compress_size) for record in records
        ):
            raise UnreadableError("has records that are compressed, or overlap; torch.save writes none that do")
        self._folder = records[0].filename.split("/")[0] if records else ""
        self._records = {record.filename: record for record in records}
        if "byteorder" in self and self.read("byteorder") != sys.byteorder.encode():
            raise UnreadableError("has bytes in the other order than this machine's", "save it on a machine like this")

    def __contains__(self, name: str) -> bool:
        return f"{self._folder}/{name}" in self._records

    def size_of(self, name: str) -> int:
        """How many bytes a record has."""
        if name not in self:
            raise UnreadableError(f"is damaged, or no file that torch.save wrote (it has no {name})")
        return self._records[f"{self._folder}/{name}"].file_size

    def read(self, name: str) -> bytearray:
        """The bytes of a record, which are as many as `compute_path_cost` says."""
        content = bytearray(self.size_of(name))
        record = self._records[f"{self._folder}/{name}"]
        head = self._read_range(record.header_offset, _HEADER_SIZE)
        if head[:4] != ZIP_MAGIC or record.flag_bits & _ENCRYPTED_FLAG:
            raise UnreadableError(f"is damaged (its {name} cannot be read)")
        lengths = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        self._read_range(record.header_offset + _HEADER_SIZE + lengths, 0)
        if self._file.readinto(content) != len(content):  # type: ignore[attr-defined]
            raise UnreadableError(f"is damaged (its {name} is cut off)")
        # torch can be told to write no checksums. They are all zero then, and it looks at none when it reads.
        if record.CRC and zlib.crc32(content) != record.CRC:
            raise UnreadableError(f"is damaged (its {name} cannot be read)")
        return content

    def _read_range(self, position: int, count: int) -> bytes:
        """So many bytes of the file, or fewer; what is read next stands behind them."""
        self._file.seek(min(max(position, 0), self.size))
        return self._file.read(count)


def _check_directory(file: BinaryIO, size: int) -> None:
    """Raise UnreadableError where the list of records, which zipfile reads whole, is too long, or is not at the end."""
    file.seek(max(0, size - 98))
    tail = file.read(98)
    if tail[-22:-18] != _END_MAGIC:
        raise UnreadableError("is damaged, or no file that torch.save wrote (it does not end as an archive does)")
    lengths = [int.from_bytes(tail[-10:-6], "little")]
    # A long list has its true length before the end, and whoever reads it need not look there.
    if tail[-42:-38] == _LOCATOR_MAGIC:
        true = int.from_bytes(tail[40:48], "little") if tail[:4] == _END_64_MAGIC else MAX_DIRECTORY_BYTES + 1
        lengths = [true, *(length for length in lengths if length != 2**32 - 1)]
    if max(lengths) > MAX_DIRECTORY_BYTES:
        raise UnreadableError(f"has a list of records of more than {MAX_DIRECTORY_BYTES:,} bytes")


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


LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""A pickle of the number that such a file begins with."""


_MAX_HEADER_INSTRUCTIONS = 100
"""In how many instructions the version and the machine are told, at most."""


class LegacyFile:
    """The storages of such a file by key, and `content`, what its main pickle says."""

    def __init__(self, file: BinaryIO) -> None:
        self.size = file.seek(0, 2)
        self._file = file
        file.seek(0)
        head = file.read(2 * MAX_PICKLE_BYTES)
        version = read_pickle_at(head, len(LEGACY_MAGIC), _MAX_HEADER_INSTRUCTIONS)
        machine = read_pickle_at(head, version.end, _MAX_HEADER_INSTRUCTIONS)
        if not (isinstance(machine.value, dict) and machine.value.get("little_endian") is True):
            raise UnreadableError("has bytes in the other order than this machine's", "save it on a machine like this")
        main = read_pickle_at(head, machine.end)
        self.content = main.value
        self._places = self._locate_storages(main, read_pickle_at(head, main.end))

    def _locate_storages(self, main: PickleResult, keys: PickleResult) -> dict[str, tuple[int, int]]:
        """Where the numbers of each storage begin, and how many bytes they are."""
        sizes = collect_itemsizes(main.outside)
        places = {}
        position = keys.end
        for key in keys.value if isinstance(keys.value, list) else ():
            self._file.seek(position)
            count = int.from_bytes(self._file.read(8), "little")
            length = count * sizes[key] if isinstance(key, str) and key in sizes else self.size
            if position + 8 + length > self.size:
                raise UnreadableError("is damaged (it is cut off)")
            places[key] = (position + 8, length)
            position += 8 + length
        return places

    def size_of(self, key: str) -> int:
        """How many bytes the numbers of a storage are."""
        if key not in self._places:
            raise UnreadableError("is damaged (it mentions memory that is none)")
        return self._places[key][1]

    def read(self, key: str) -> bytearray:
        """The numbers of a storage, as many bytes as `compute_path_cost` says."""
        position, length = self._places[key]
        self._file.seek(position)
        numbers = bytearray(length)
        if self._file.readinto(numbers) != length:  # type: ignore[attr-defined]
            raise UnreadableError("is damaged (it is cut off)")
        return numbers


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
    """The memory that tensors look at: `compute_path_cost` and `read` are by key. What several look at is read once."""

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
