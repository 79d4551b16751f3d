"""Read what torch.save wrote as data: nothing in it is imported, called or run."""

from __future__ import annotations

import io
import mmap
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import torch
from attrs import frozen
from torch import Tensor

from composer.tensors import CONVERT_HINT, SAVE_AGAIN_HINT, SAVE_STATE_DICT_HINT, UnreadableError

ZIP_MAGIC = b"PK\x03\x04"

MAX_DIRECTORY_BYTES = 2**22  # 60 for each record, so 70,000 records

MAX_PICKLE_BYTES = 2**26

MAX_STEPS = 750_000  # 61 for each tensor, so 12,000 tensors

CALL_STEPS = 16  # a call takes as long as this many other instructions

MAX_NAME_LENGTH = 1000

_DTYPE_NAMES = """
    bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 bfloat16 float16 float32 float64 complex64 complex128
    float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz
"""

READ_DTYPES = {name: getattr(torch, name) for name in _DTYPE_NAMES.split()}

_STORAGES = torch.storage._storage_type_to_dtype_map()

_DTYPES: Mapping[str, torch.dtype] = {
    **{name: dtype for name, dtype in _STORAGES.items() if dtype in READ_DTYPES.values()},
    **READ_DTYPES,
    "UntypedStorage": torch.uint8,
}
"""The number types by the names that a pickle has for them: `float32` and `FloatStorage`."""

_TORCH_MODULES = ("torch", "torch.storage", "torch._utils", "torch._tensor")

_TENSOR_REBUILDERS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")

_PARAMETER_REBUILDERS = ("_rebuild_parameter", "_rebuild_parameter_with_state")


def read_archive(path: Path) -> dict[Any, Any]:
    """Return the dict in a file of torch.save, with its tensors mapped into memory: no number is read yet.

    Anything else in it is an empty dict. Raises UnreadableError for a file that is damaged, or too long to read.
    """
    try:
        archive = _Archive(path)
        pickled = archive.read_record("data.pkl")
        if len(pickled) > MAX_PICKLE_BYTES:
            raise UnreadableError(f"has a pickle of more than {MAX_PICKLE_BYTES:,} bytes", SAVE_STATE_DICT_HINT)
        content = _Unpickler(bytes(pickled), archive).load()
    except (UnreadableError, MemoryError):
        raise
    # A malformed archive or pickle can raise nearly anything in zipfile and pickle.
    except Exception as error:
        raise UnreadableError("is damaged, or was not written by torch.save") from error
    return content if isinstance(content, dict) else {}


class _DirectoryFile(io.FileIO):
    """A file of which zipfile cannot read more at once than a list of records may have."""

    def read(self, size: int | None = -1, /) -> bytes:
        limit = MAX_DIRECTORY_BYTES + 1
        content = super().read(limit if size is None or size < 0 else min(size, limit)) or b""
        if len(content) == limit:
            raise UnreadableError(f"has a list of records of more than {MAX_DIRECTORY_BYTES:,} bytes")
        return content


class _Archive:
    """The records of a memory-mapped zip archive, by their names without the common folder."""

    def __init__(self, path: Path) -> None:
        with _DirectoryFile(path) as file:
            self.content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            records = ZipFile(file).infolist()
        self._records = {record.filename.partition("/")[2]: record for record in records}
        if "constants.pkl" in self._records:
            raise UnreadableError("is a program that torch.jit wrote", SAVE_STATE_DICT_HINT)
        if any(record.compress_type != ZIP_STORED for record in records):
            raise UnreadableError("has compressed records; torch.save does not compress")
        if "byteorder" in self._records and bytes(self.read_record("byteorder")) != sys.byteorder.encode():
            raise UnreadableError("has another byte order than this machine", "save it on a machine like this")

    def read_record(self, name: str) -> memoryview:
        """Return the bytes of a record, mapped. Raises KeyError or ValueError where there are none."""
        record = self._records[name]
        at = max(record.header_offset, 0)
        header = self.content[at : at + 30]
        name_end = at + 30 + int.from_bytes(header[26:28], "little")
        start = name_end + int.from_bytes(header[28:30], "little")
        is_local = header[:4] == ZIP_MAGIC and self.content[at + 30 : name_end].endswith(name.encode())
        # Bit 0 marks encrypted records.
        if not is_local or record.flag_bits & 1 or start + record.file_size > len(self.content):
            raise ValueError(name)
        return memoryview(self.content)[start : start + record.file_size]


@frozen(eq=False)
class _Global:
    """A class or function that a pickle names."""

    module: str
    name: str


@frozen(eq=False)
class _Storage:
    """The record that holds the numbers of tensors, and the class of the storage."""

    kind: _Global
    record: str


@frozen(eq=False)
class UnusableTensor:
    """A tensor that cannot be read. `problem` has {} in place of its name."""

    problem: str
    fix: str = SAVE_AGAIN_HINT


class _Object(dict[str | None, Any]):
    """Stand for any object that a pickle creates, with the entries that the pickle puts into it."""


class _Unpickler(pickle._Unpickler):
    """Read a pickle as data. The methods below replace those that would call, import, hash or allocate something."""

    stack: list[Any]
    metastack: list[list[Any]]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, pickled: bytes, archive: _Archive) -> None:
        stream = io.BytesIO(pickled)
        super().__init__(stream, encoding="utf-8", errors="backslashreplace")
        self.read, self.readline = stream.read, stream.readline
        self._archive = archive

    def load(self) -> Any:
        """Return the content. Raises UnreadableError for too many steps, and any other error for a damaged pickle."""
        self.stack, self.metastack = [], []
        self.append = self.stack.append
        self.steps = MAX_STEPS
        while self.steps > 0:
            self.steps -= 1
            code = self.read(1)
            if code == pickle.STOP:
                return self.stack.pop()
            self.dispatch[code[0]](self)  # type: ignore[arg-type]
        raise UnreadableError(f"has a pickle of more than {MAX_STEPS:,} steps", SAVE_STATE_DICT_HINT)

    def find_class(self, module: str, name: str) -> _Global:
        return _Global(module, name)

    def load_binpersid(self) -> None:
        match self.stack.pop():
            case ("storage", _Global() as kind, str(key), *_) if len(key) <= MAX_NAME_LENGTH:
                self.append(_Storage(kind, f"data/{key}"))
            case _:
                self.append(_Object())

    def load_frame(self) -> None:
        self.read(8)  # how far to read ahead

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def _set_items(self, items: list[Any]) -> None:
        if isinstance(entries := self.stack[-1], dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                # The hash of a nested tuple may take forever, and many numbers can have the same hash.
                usable = isinstance(key, str) and len(key) <= MAX_NAME_LENGTH
                entries[key.encode("utf-8", "backslashreplace").decode() if usable else None] = value

    def load_reduce(self) -> None:
        self.steps -= CALL_STEPS
        arguments, function = self.stack.pop(), self.stack.pop()
        self.append(_build_object(function, arguments, self._archive))

    def load_newobj_ex(self) -> None:
        self.stack.pop()
        self.load_reduce()


_KEPT_INSTRUCTIONS = """
    PROTO MARK POP POP_MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT
    BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8
    EMPTY_LIST EMPTY_DICT EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    BINGET LONG_BINGET BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL
"""

_REPLACED_INSTRUCTIONS = "FRAME SETITEM SETITEMS BINPERSID REDUCE NEWOBJ_EX"

_EQUAL_INSTRUCTIONS = {
    "BUILD": "POP",
    "APPEND": "POP",
    "APPENDS": "POP_MARK",
    "ADDITEMS": "POP_MARK",
    "EMPTY_SET": "EMPTY_LIST",
    "FROZENSET": "TUPLE",
    "BYTEARRAY8": "BINBYTES8",
    "NEWOBJ": "REDUCE",
}
"""Lists, sets and the state of objects are not needed, and are dropped."""


def _select_instructions() -> dict[int, Callable[[Any], None]]:
    """Return the function of each instruction that torch.save writes, by its byte. All others are errors."""
    allowed = {name: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in _KEPT_INSTRUCTIONS.split()}
    allowed |= {name: getattr(_Unpickler, f"load_{name.lower()}") for name in _REPLACED_INSTRUCTIONS.split()}
    allowed |= {name: allowed[other] for name, other in _EQUAL_INSTRUCTIONS.items()}
    return {getattr(pickle, name)[0]: function for name, function in allowed.items()}


_Unpickler.dispatch = _select_instructions()


def _build_object(function: Any, arguments: Any, archive: _Archive) -> Any:
    """Return the tensor that a call of torch's functions would create; of any other call, an empty object."""
    name = function.name if isinstance(function, _Global) and function.module in _TORCH_MODULES else ""
    if name == "_rebuild_from_type_v2":
        # A tensor with attributes, such as the mark of an nn.Buffer.
        match arguments:
            case (_Global(_, inner), _, inner_arguments, _) if inner in _TENSOR_REBUILDERS:
                name, arguments = inner, inner_arguments
    match arguments:
        case (Tensor() | UnusableTensor() as tensor, *_) if name in _PARAMETER_REBUILDERS:
            return tensor
        case (_Storage() as storage, int(offset), tuple(size), tuple(stride), *rest) if name in _TENSOR_REBUILDERS:
            kind = rest.pop(2) if name == "_rebuild_tensor_v3" else storage.kind
            if any(rest[2:]):
                hint = "save its tensors as they are: tensor.resolve_conj().resolve_neg()"
                return UnusableTensor("has {}, whose numbers are conjugate or negated", hint)
            return _build_view(archive, storage.record, kind, offset, size, stride)
    if name in (*_TENSOR_REBUILDERS, *_PARAMETER_REBUILDERS):
        return UnusableTensor("is damaged ({} is not a valid tensor)")
    if name.startswith("_rebuild_"):
        hint = "save it as a plain tensor: tensor.to_dense(), or tensor.dequantize()"
        return UnusableTensor("has {} of a kind that is not read", hint)
    return _Object()


def _build_view(
    archive: _Archive, record: str, kind: Any, offset: int, size: tuple[Any, ...], stride: tuple[Any, ...]
) -> Tensor | UnusableTensor:
    """Return the tensor over the numbers of a record; `offset` and `stride` are counted in numbers."""
    name = kind.name if isinstance(kind, _Global) and kind.module in _TORCH_MODULES else "unknown"
    if name not in _DTYPES:
        return UnusableTensor(f"has {{}} of a kind that is not read ({name[:60]!r})", CONVERT_HINT)
    dtype = _DTYPES[name]
    try:
        content = archive.read_record(record)
    except (KeyError, ValueError):
        return UnusableTensor("is damaged (the numbers of {} cannot be read)")
    count = len(content) // dtype.itemsize
    if not _is_within(count, offset, size, stride):
        return UnusableTensor("is damaged ({} reaches beyond its numbers)")
    if prod(size) > len(archive.content):
        hint = "save it in memory of its own: tensor.clone()"
        return UnusableTensor("has {}, a view that repeats its numbers beyond the size of the file", hint)
    numbers = torch.frombuffer(content, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)
    return numbers.as_strided(size, stride, offset)


def _is_within(count: int, offset: int, size: Sequence[Any], stride: Sequence[Any]) -> bool:
    if len(size) != len(stride) or len(size) > 64:
        return False
    if not all(type(number) is int and 0 <= number < 2**63 for number in (offset, *size, *stride)):
        return False
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    return last < count if all(size) else offset <= count
