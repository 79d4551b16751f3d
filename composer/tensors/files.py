"""Read files of tensors as data: safetensors, and archives of torch.save."""

from __future__ import annotations

import io
import mmap
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from math import prod
from os import PathLike
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import torch
from attrs import frozen
from safetensors import SafetensorError, safe_open
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


def read_torch_file(path: Path, under: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors of the state dict in a file, mapped into memory: no number is read yet.

    `under` are names of entries that may hold the state dict. Raises UnreadableError for any other content.
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
    return _select_state_dict(content if isinstance(content, dict) else {}, under)


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
class _UnusableTensor:
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
        case (Tensor() | _UnusableTensor() as tensor, *_) if name in _PARAMETER_REBUILDERS:
            return tensor
        case (_Storage() as storage, int(offset), tuple(size), tuple(stride), *rest) if name in _TENSOR_REBUILDERS:
            kind = rest.pop(2) if name == "_rebuild_tensor_v3" else storage.kind
            if any(rest[2:]):
                hint = "save its tensors as they are: tensor.resolve_conj().resolve_neg()"
                return _UnusableTensor("has {}, whose numbers are conjugate or negated", hint)
            return _build_view(archive, storage.record, kind, offset, size, stride)
    if name in (*_TENSOR_REBUILDERS, *_PARAMETER_REBUILDERS):
        return _UnusableTensor("is damaged ({} is not a valid tensor)")
    if name.startswith("_rebuild_"):
        hint = "save it as a plain tensor: tensor.to_dense(), or tensor.dequantize()"
        return _UnusableTensor("has {} of a kind that is not read", hint)
    return _Object()


def _build_view(
    archive: _Archive, record: str, kind: Any, offset: int, size: tuple[Any, ...], stride: tuple[Any, ...]
) -> Tensor | _UnusableTensor:
    """Return the tensor over the numbers of a record; `offset` and `stride` are counted in numbers."""
    name = kind.name if isinstance(kind, _Global) and kind.module in _TORCH_MODULES else "unknown"
    if name not in _DTYPES:
        return _UnusableTensor(f"has {{}} of a kind that is not read ({name[:60]!r})", CONVERT_HINT)
    dtype = _DTYPES[name]
    try:
        content = archive.read_record(record)
    except (KeyError, ValueError):
        return _UnusableTensor("is damaged (the numbers of {} cannot be read)")
    count = len(content) // dtype.itemsize
    if not _is_within(count, offset, size, stride):
        return _UnusableTensor("is damaged ({} reaches beyond its numbers)")
    if prod(size) > len(archive.content):
        hint = "save it in memory of its own: tensor.clone()"
        return _UnusableTensor("has {}, a view that repeats its numbers beyond the size of the file", hint)
    numbers = torch.frombuffer(content, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)
    return numbers.as_strided(size, stride, offset)


def _is_within(count: int, offset: int, size: Sequence[Any], stride: Sequence[Any]) -> bool:
    if len(size) != len(stride) or len(size) > 64:
        return False
    if not all(type(number) is int and 0 <= number < 2**63 for number in (offset, *size, *stride)):
        return False
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    return last < count if all(size) else offset <= count


def _select_state_dict(entries: Mapping[Any, Any], under: Sequence[str]) -> dict[str, Tensor]:
    """Return the state dict in a checkpoint. Raises UnreadableError where it has none.

    Of several, that is the first of `under`. Where there is none of those, or another network may be beside it, it is
    all of them, each behind its name. Averaged weights are selected before others, as in timm.
    """
    chosen = next((name for name in under if isinstance(entries.get(name), dict) and entries[name]), None)
    inner = _find_state_dicts(entries)
    state = dict(entries if chosen is None else entries[chosen])
    # A few tensors beside it are the mean of the images, or class weights.
    has_rival = any(2 * len(other) >= len(state) for name, other in inner.items() if name != chosen)
    if chosen is None or (chosen in inner and not chosen.endswith("_ema") and has_rival):
        state = {f"{outer}.{name}": tensor for outer in inner for name, tensor in inner[outer].items()} or state
    for name, value in state.items():
        if isinstance(value, _UnusableTensor):
            raise UnreadableError(value.problem.replace("{}", str(name), 1), value.fix)
    others = [name or "a key that is not a string" for name, value in state.items() if not (name and _is_tensor(value))]
    if len(others) == len(state):
        raise UnreadableError("holds no tensors by name", SAVE_STATE_DICT_HINT)
    if others:
        listed = f"{', '.join(others[:3])}{', …' if len(others) > 3 else ''}"
        raise UnreadableError(
            f"holds tensors by name beside {len(others)} other values ({listed})", SAVE_STATE_DICT_HINT
        )
    return state


def _find_state_dicts(entries: Mapping[Any, Any]) -> dict[str, dict[Any, Any]]:
    """Return the state dicts in a dict without tensors of its own, by name, such as `teacher` and `student`."""
    if any(map(_is_tensor, entries.values())):
        return {}
    inner = {name: value for name, value in entries.items() if isinstance(name, str) and isinstance(value, dict)}
    # One dict under thousands of names would take forever.
    if sum(map(len, inner.values())) > MAX_STEPS:
        raise UnreadableError(f"holds more than {MAX_STEPS:,} values by name", SAVE_STATE_DICT_HINT)
    return {
        outer: state
        for outer, state in inner.items()
        if all(isinstance(name, str) and _is_tensor(tensor) for name, tensor in state.items())
    }


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor | _UnusableTensor)


MAX_HEADER_BYTES = 2**24
"""The size of a safetensors header, which has about 150 bytes for each tensor: this is 100,000."""

MAX_SIZE_RATIO = 4
"""How many times as large as a file its tensors may be: those that share memory are counted each."""

SHARD_INDEX_SUFFIX = ".index.json"

STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")
"""The keys under which a checkpoint may hold the state dict."""

_LFS_POINTER = b"version https://git-lfs."


@frozen
class TensorFile:
    """The tensors of a file by name, as views of the mapped file, and the metadata of safetensors."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def open_tensors(file: str | PathLike[str], under: Sequence[str] = STATE_DICT_KEYS) -> TensorFile:
    """Open a file of safetensors, or one that torch.save wrote, with its state dict perhaps under a name of `under`.

    Raises UnreadableError where the file cannot be read or holds no tensors by name; other content is ignored.
    """
    path = Path(file)
    start = _read_start(path)
    if path.name.endswith(SHARD_INDEX_SUFFIX):
        raise UnreadableError(
            "is a list of shards, and not the weights themselves",
            "put the tensors of all shards into one dict and save that: torch.save(state, file)",
        )
    if start.startswith(ZIP_MAGIC):
        return TensorFile(read_torch_file(path, under), {})
    return _read_safetensors(path, start, "give a file of safetensors, or one that torch.save wrote")


def open_safetensors(file: str | PathLike[str], fix: str) -> TensorFile:
    """Open a file of safetensors. Raises UnreadableError, with `fix` as the next step, for any other file."""
    return _read_safetensors(Path(file), _read_start(Path(file)), fix)


def read_tensor_file(file: str | PathLike[str], under: Sequence[str] = STATE_DICT_KEYS) -> dict[str, Tensor]:
    """Return copies of all tensors of a file.

    Raises UnreadableError where the file cannot be read, and where the tensors take `MAX_SIZE_RATIO` times its size.
    """
    tensors = open_tensors(file, under).tensors
    if sum(tensor.nbytes for tensor in tensors.values()) > MAX_SIZE_RATIO * Path(file).stat().st_size:
        raise UnreadableError(
            f"has tensors that come to more than {MAX_SIZE_RATIO} times its own size",
            "save each in memory of its own: tensor.clone()",
        )
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _read_start(path: Path) -> bytes:
    """Return the first bytes of a file. Raises UnreadableError where it is not a file, or cannot be opened."""
    try:
        if not path.is_file():
            raise UnreadableError("is a folder" if path.is_dir() else "is not a file", "check the path")
        with path.open("rb") as stream:
            return stream.read(len(_LFS_POINTER))
    except OSError as error:
        raise UnreadableError(
            f"cannot be read ({error.strerror or error})", "check the file and its permissions"
        ) from error


def _read_safetensors(path: Path, start: bytes, fix: str) -> TensorFile:
    """Return the mapped tensors and the metadata of a file that begins with `start`."""
    _refuse_other_formats(start, fix)
    if MAX_HEADER_BYTES < int.from_bytes(start[:8], "little") <= path.stat().st_size - 8:
        raise UnreadableError(f"has a header of more than {MAX_HEADER_BYTES:,} bytes", fix)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, RuntimeError) as error:
        raise UnreadableError(f"is not a safetensors file ({error})", fix) from error
    for name, tensor in tensors.items():
        if tensor.dtype not in READ_DTYPES.values():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UnreadableError(f"has {name} of a kind that is not read ({kind!r})", CONVERT_HINT)
    return TensorFile(tensors, metadata)


def _refuse_other_formats(start: bytes, fix: str) -> None:
    """Raise UnreadableError for files that are often given by mistake, by their first bytes.

    Read as the length of a header, those of a text or a pickle are more than any file has.
    """
    if start == _LFS_POINTER:
        raise UnreadableError("is a pointer of git-lfs, and not the file itself", "fetch the file: git lfs pull")
    if start.isascii() and start[:8].decode("ascii").isprintable() and len(start) >= 8:
        raise UnreadableError("is a text", fix)
    if start[:1] == b"\x80" and any(start[3:8]):
        raise UnreadableError(
            "is a pickle outside a zip archive, as torch wrote before 1.6",
            "convert it: torch.save(torch.load(file, weights_only=True), file)",
        )
