"""Read the tensors of weights files as data: nothing in a file is imported, called or run."""

from __future__ import annotations

import io
import json
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

MAX_HEADER_BYTES = 2**24  # a safetensors header has about 150 for each tensor
MAX_INDEX_BYTES = 2**24  # a list of shards has about 100 for each tensor
MAX_DIRECTORY_BYTES = 2**22  # the records of an archive have about 60 each
MAX_PICKLE_BYTES = 2**26  # checkpoints of mmseg hold the history of their losses
MAX_PICKLE_STEPS = 1_000_000  # about 45 for each tensor
MAX_NAMES = 750_000
MAX_NAME_LENGTH = 1000
MAX_ARGUMENTS = 16  # torch passes at most 8 to the functions that create a tensor
MAX_SIZE_RATIO = 4
"""How many times as large as a file its tensors may be: those that share memory are counted each."""

SHARD_INDEX_SUFFIX = ".index.json"
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")
"""The keys under which a checkpoint may hold the state dict."""

ZIP_MAGIC = b"PK\x03\x04"
_LFS_POINTER = b"version https://git-lfs."

_READ_HINT = "give a file of safetensors, or one that torch.save wrote"
_SAVE_AGAIN_HINT = "save or copy it again"
_SAVE_STATE_DICT_HINT = "save the state dict: torch.save(model.state_dict(), file)"
_CONVERT_HINT = "convert it to floating-point numbers, and save it again"

_DTYPE_NAMES = """
    bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 bfloat16 float16 float32 float64 complex64 complex128
    float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz
"""
_READ_DTYPES = {name: getattr(torch, name) for name in _DTYPE_NAMES.split()}
_STORAGES = torch.storage._storage_type_to_dtype_map()
_DTYPES: Mapping[str, torch.dtype] = {
    **{name: dtype for name, dtype in _STORAGES.items() if dtype in _READ_DTYPES.values()},
    **_READ_DTYPES,
    "UntypedStorage": torch.uint8,
}
"""The number types by the names that a pickle has for them: `float32` and `FloatStorage`."""


class UnreadableError(ValueError):
    """Report what is wrong with a weights file, as the words after its name; `fix` is the next step.

    In the content of a file it stands for a tensor that cannot be read, with {} in place of the tensor's name.
    """

    def __init__(self, message: str, fix: str = _SAVE_AGAIN_HINT) -> None:
        super().__init__(message)
        self.fix = fix


@frozen
class TensorFile:
    """The tensors of a file by name, as views of the mapped file, the metadata of safetensors, and the size."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    bytes: int


def open_tensors(file: str | PathLike[str], under: Sequence[str] = STATE_DICT_KEYS) -> TensorFile:
    """Open a file of safetensors, one that torch.save wrote, or all files that a list of shards names.

    The state dict may be under a name of `under`; other content is ignored. No number is read yet. Raises
    UnreadableError where a file cannot be read or holds no tensors by name.
    """
    path = Path(file)
    if not path.name.endswith(SHARD_INDEX_SUFFIX):
        return _open_file(path, under)
    _read_start(path)
    shards = []
    for name in _read_shard_names(path):
        try:
            shards.append(_open_file(path.with_name(name), under))
        except UnreadableError as error:
            raise UnreadableError(f"names {name}, which {error}", error.fix) from error
    tensors = {name: tensor for shard in shards for name, tensor in shard.tensors.items()}
    return TensorFile(tensors, {}, sum(shard.bytes for shard in shards))


def read_tensor_file(file: str | PathLike[str], under: Sequence[str] = STATE_DICT_KEYS) -> dict[str, Tensor]:
    """Return copies of the tensors that `open_tensors` returns.

    Raises UnreadableError as it does, and where the tensors take `MAX_SIZE_RATIO` times the size of the file.
    """
    opened = open_tensors(file, under)
    if sum(tensor.nbytes for tensor in opened.tensors.values()) > MAX_SIZE_RATIO * opened.bytes:
        raise UnreadableError(
            f"has tensors that come to more than {MAX_SIZE_RATIO} times its own size",
            "save each in memory of its own: tensor.clone()",
        )
    return {name: tensor.clone() for name, tensor in opened.tensors.items()}


def read_limited_text(file: Path, most: int) -> str:
    """Return the text of a file. Raises OSError for a pipe, and ValueError for more than `most` bytes."""
    if file.exists() and not file.is_file():
        raise OSError("it is not a file")
    if file.is_file() and file.stat().st_size > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return file.read_text(encoding="utf-8")


def _read_shard_names(index: Path) -> list[str]:
    """Return the names of the files beside an index that it lists, in transformers' order."""
    try:
        content = json.loads(read_limited_text(index, MAX_INDEX_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableError(f"cannot be read ({error})") from error
    weights = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not weights or not all(isinstance(name, str) for name in weights.values()):
        raise UnreadableError("has no weight_map that names the file of each weight")
    names = sorted(set(weights.values()))
    for name in names:
        if name in {"", ".", ".."} or "/" in name or "\\" in name:
            raise UnreadableError(f"names {name!r}, which is not a file beside it")
    return names


def _open_file(path: Path, under: Sequence[str]) -> TensorFile:
    start = _read_start(path)
    if start.startswith(ZIP_MAGIC):
        return TensorFile(_select_state_dict(_read_archive(path), under), {}, path.stat().st_size)
    _check_format(start)
    if MAX_HEADER_BYTES < int.from_bytes(start[:8], "little") <= path.stat().st_size - 8:
        raise UnreadableError(f"has a header of more than {MAX_HEADER_BYTES:,} bytes", _READ_HINT)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, RuntimeError) as error:
        raise UnreadableError(f"is not a safetensors file ({error})", _READ_HINT) from error
    for name, tensor in tensors.items():
        if tensor.dtype not in _READ_DTYPES.values():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UnreadableError(f"has {name} of a kind that is not read ({kind!r})", _CONVERT_HINT)
    return TensorFile(tensors, metadata, path.stat().st_size)


def _read_start(path: Path) -> bytes:
    """Return the first bytes of a file. Raises UnreadableError where it is not a file, or cannot be opened."""
    try:
        if not path.is_file():
            raise UnreadableError("is a folder" if path.is_dir() else "is not a file", "check the path")
        with path.open("rb") as stream:
            return stream.read(len(_LFS_POINTER))
    except OSError as error:
        fix = "check the file and its permissions"
        raise UnreadableError(f"cannot be read ({error.strerror or error})", fix) from error


def _check_format(start: bytes) -> None:
    """Raise UnreadableError for files that are often given by mistake, by their first bytes.

    Read as the length of a header, those of a text or a pickle are more than any file has.
    """
    if start == _LFS_POINTER:
        raise UnreadableError("is a pointer of git-lfs, and not the file itself", "fetch the file: git lfs pull")
    if start.isascii() and start[:8].decode("ascii").isprintable() and len(start) >= 8:
        raise UnreadableError("is a text", _READ_HINT)
    if start[:1] == b"\x80" and any(start[3:8]):
        raise UnreadableError(
            "is a pickle outside a zip archive, as torch wrote before 1.6",
            "convert it: torch.save(torch.load(file, weights_only=True), file)",
        )


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
        if isinstance(value, UnreadableError):
            raise UnreadableError(str(value).replace("{}", str(name), 1), value.fix)
    others = [name or "a key that is not a string" for name, x in state.items() if not (name and _is_tensor(x))]
    if len(others) == len(state):
        raise UnreadableError("holds no tensors by name", _SAVE_STATE_DICT_HINT)
    if others:
        listed = f"{', '.join(others[:3])}{', …' if len(others) > 3 else ''}"
        message = f"holds tensors by name beside {len(others)} other values ({listed})"
        raise UnreadableError(message, _SAVE_STATE_DICT_HINT)
    return state


def _find_state_dicts(entries: Mapping[Any, Any]) -> dict[str, dict[Any, Any]]:
    """Return the state dicts in a dict without tensors of its own, by name, such as `teacher` and `student`."""
    if any(map(_is_tensor, entries.values())):
        return {}
    inner = {name: value for name, value in entries.items() if isinstance(name, str) and isinstance(value, dict)}
    # One dict under thousands of names would take forever.
    if sum(map(len, inner.values())) > MAX_NAMES:
        raise UnreadableError(f"holds more than {MAX_NAMES:,} values by name", _SAVE_STATE_DICT_HINT)
    return {
        outer: state
        for outer, state in inner.items()
        if all(isinstance(name, str) and _is_tensor(tensor) for name, tensor in state.items())
    }


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor | UnreadableError)


def _read_archive(path: Path) -> dict[Any, Any]:
    """Return the dict in a file of torch.save, with its tensors mapped into memory; anything else is an empty dict."""
    try:
        archive = _Archive(path)
        pickled = archive.read_record("data.pkl")
        if len(pickled) > MAX_PICKLE_BYTES:
            raise UnreadableError(f"has a pickle of more than {MAX_PICKLE_BYTES:,} bytes", _SAVE_STATE_DICT_HINT)
        content = _Unpickler(pickled, archive).load()
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
            raise UnreadableError("is a program that torch.jit wrote", _SAVE_STATE_DICT_HINT)
        if any(record.compress_type != ZIP_STORED for record in records):
            raise UnreadableError("has compressed records; torch.save does not compress")
        if "byteorder" in self._records and self.read_record("byteorder") != sys.byteorder.encode():
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

    def map_tensor(
        self, record: str, kind: Any, offset: int, size: tuple[Any, ...], stride: tuple[Any, ...]
    ) -> Tensor | UnreadableError:
        """Return the tensor over the numbers of a record, of which `offset` and `stride` are counted."""
        name = kind if isinstance(kind, str) else "unknown"
        if name not in _DTYPES:
            return UnreadableError(f"has {{}} of a kind that is not read ({name[:60]!r})", _CONVERT_HINT)
        dtype = _DTYPES[name]
        try:
            content = self.read_record(record)
        except (KeyError, ValueError):
            return UnreadableError("is damaged (the numbers of {} cannot be read)")
        count = len(content) // dtype.itemsize
        if not _is_within(count, offset, size, stride):
            return UnreadableError("is damaged ({} reaches beyond its numbers)")
        if prod(size) > len(self.content):
            hint = "save it in memory of its own: tensor.clone()"
            return UnreadableError("has {}, a view that repeats its numbers beyond the size of the file", hint)
        numbers = torch.frombuffer(content, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)
        return numbers.as_strided(size, stride, offset)


def _is_within(count: int, offset: int, size: Sequence[Any], stride: Sequence[Any]) -> bool:
    if len(size) != len(stride) or len(size) > 64:
        return False
    if not all(type(number) is int and 0 <= number < 2**63 for number in (offset, *size, *stride)):
        return False
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    return last < count if all(size) else offset <= count


class _Unpickler(pickle._Unpickler):
    """Read a pickle as data: a class or function is its name, a storage is its identifier, other objects are dicts.

    The methods below replace those that would call, import or hash something.
    """

    stack: list[Any]
    metastack: list[list[Any]]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, pickled: memoryview, archive: _Archive) -> None:
        stream = io.BytesIO(pickled)
        super().__init__(stream, encoding="utf-8", errors="backslashreplace")
        self.read, self.readline = stream.read, stream.readline
        self._archive = archive

    def load(self) -> Any:
        """Return the content. Raises UnreadableError for too many steps, and any other error for a damaged pickle."""
        self.stack, self.metastack = [], []
        self.append = self.stack.append
        for _ in range(MAX_PICKLE_STEPS):
            code = self.read(1)
            if code == pickle.STOP:
                return self.stack.pop()
            self.dispatch[code[0]](self)  # type: ignore[arg-type]
        raise UnreadableError(f"has a pickle of more than {MAX_PICKLE_STEPS:,} steps", _SAVE_STATE_DICT_HINT)

    def load_frame(self) -> None:
        self.read(8)  # how far to read ahead

    def find_class(self, module: str, name: str) -> str:  # noqa: ARG002
        return name

    def persistent_load(self, pid: Any) -> Any:
        return pid

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
        arguments, function = self.stack.pop(), self.stack.pop()
        self.append(_create_object(function, arguments, self._archive))

    def load_newobj_ex(self) -> None:
        self.stack.pop()
        self.load_reduce()


def _create_object(function: Any, arguments: Any, archive: _Archive) -> Any:
    """Return the tensor that a call of torch's functions would create; of any other call, an empty dict."""
    if not isinstance(function, str):
        return {}
    match function, arguments:
        # A tensor with attributes, such as the mark of an nn.Buffer.
        case "_rebuild_from_type_v2", (str(inner), _, inner_arguments, _):
            function, arguments = inner, inner_arguments
    if isinstance(arguments, tuple) and len(arguments) > MAX_ARGUMENTS:  # matching copies them, for every call anew
        arguments = ()
    match function, arguments:
        case "_rebuild_parameter" | "_rebuild_parameter_with_state", (Tensor() | UnreadableError() as tensor, *_):
            return tensor
        case (
            "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3",
            (("storage", kind, str(key), *_), int(offset), tuple(size), tuple(stride), *rest),
        ) if len(key) <= MAX_NAME_LENGTH:
            kind = rest.pop(2) if function == "_rebuild_tensor_v3" else kind
            if any(rest[2:]):
                hint = "save its tensors as they are: tensor.resolve_conj().resolve_neg()"
                return UnreadableError("has {}, whose numbers are conjugate or negated", hint)
            return archive.map_tensor(f"data/{key}", kind, offset, size, stride)
        case _ if function.startswith(("_rebuild_tensor", "_rebuild_parameter")):
            return UnreadableError("is damaged ({} is not a valid tensor)")
        case _ if function.startswith("_rebuild_"):
            hint = "save it as a plain tensor: tensor.to_dense(), or tensor.dequantize()"
            return UnreadableError("has {} of a kind that is not read", hint)
    return {}


_KEPT_INSTRUCTIONS = """
    PROTO FRAME MARK POP POP_MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT
    BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8
    EMPTY_LIST EMPTY_DICT EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 SETITEM SETITEMS
    BINGET LONG_BINGET BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL BINPERSID REDUCE NEWOBJ_EX
"""

_REPLACED_INSTRUCTIONS = {
    "BUILD": "POP",
    "APPEND": "POP",
    "APPENDS": "POP_MARK",
    "ADDITEMS": "POP_MARK",
    "EMPTY_SET": "EMPTY_LIST",
    "FROZENSET": "TUPLE",
    "BYTEARRAY8": "BINBYTES8",
    "NEWOBJ": "REDUCE",
}
"""Lists, sets and the state of objects are not needed, and are dropped. An array is not made before it is read."""


def _select_instructions() -> dict[int, Callable[[Any], None]]:
    """Return the function of each instruction that torch.save writes, by its byte. All others are errors."""
    functions = {}
    for name, run in (dict.fromkeys(_KEPT_INSTRUCTIONS.split()) | _REPLACED_INSTRUCTIONS).items():
        inherited = pickle._Unpickler.dispatch[getattr(pickle, run or name)[0]]
        functions[getattr(pickle, name)[0]] = getattr(_Unpickler, inherited.__name__)
    return functions


_Unpickler.dispatch = _select_instructions()
