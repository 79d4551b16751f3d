"""The tensors of a checkpoint by name, from safetensors or from what torch.save writes. Nothing in a file is run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import torch
from torch import Tensor

from composer.terratorch.pickled import Made, Named, Outside, UnreadableError, read_pickle
from composer.weights import tensors_of, unfit

UNDER = ("state_dict", "model_state_dict", "model")
"""Where a checkpoint may hold the state dict, if it is not the state dict itself."""

DTYPES: Mapping[str, torch.dtype] = {
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.BoolStorage": torch.bool,
    "torch.ByteStorage": torch.uint8,
    "torch.CharStorage": torch.int8,
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.IntStorage": torch.int32,
    "torch.LongStorage": torch.int64,
    "torch.ShortStorage": torch.int16,
}
"""What torch calls memory that holds numbers of a kind."""

_REPAIR = "give a file of safetensors, or one that torch.save wrote, of torch 1.6 or later"
_ZIP = b"PK\x03\x04"
_TENSOR = Named("torch._utils._rebuild_tensor_v2")
_PARAMETER = Named("torch._utils._rebuild_parameter")


def tensors_in(file: str | PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU: those of a safetensors file, or of a state dict.

    The state dict is all that a `.pt`, `.pth` or `.ckpt` file holds, or stands in it under a name of `UNDER`. What
    else it holds is left unread. Raises SpecError where the file cannot be read, or holds no state dict.
    """
    path = Path(file)
    if not path.is_file():
        raise unfit(file, "is a folder" if path.is_dir() else "is no file", "give the path of a checkpoint")
    try:
        with path.open("rb") as bytes_of_it:
            zipped = bytes_of_it.read(len(_ZIP)) == _ZIP
        return _of_torch(path) if zipped else tensors_of(path, _REPAIR)
    except OSError as error:
        raise unfit(
            file, f"cannot be read ({error.strerror or error})", "check the file and its permissions"
        ) from error


def _of_torch(path: Path) -> dict[str, Tensor]:
    try:
        with ZipFile(path) as archive:
            records = _Records(archive)
            state = _state_dict(read_pickle(records.read("data.pkl")))
            return {name: records.tensor(value) for name, value in state.items()}
    except _NoStateError as error:
        raise unfit(path, str(error), "save the state dict: torch.save(model.state_dict(), file)") from error
    except OSError:
        raise
    except Exception as error:  # a damaged archive makes zipfile and torch raise whatever they stumble over
        told = str(error) if isinstance(error, UnreadableError) else f"{type(error).__name__}: {error}"
        said = " ".join(told.split())[:200]
        raise unfit(path, f"is damaged, or no file that torch.save wrote ({said})", "save or copy it again") from error


class _NoStateError(Exception):
    """The file is whole, and holds something else than tensors by name."""


def _state_dict(content: Any) -> dict[str, Any]:
    held = _entries(content)
    state = next(filter(None, (_entries(held.get(name)) for name in UNDER)), held)
    others = [str(name) for name, value in state.items() if not (isinstance(name, str) and _is_tensor(value))]
    if not state or len(others) == len(state):
        raise _NoStateError("holds no tensors by name")
    if others:
        listed = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        raise _NoStateError(f"holds tensors by name beside {len(others)} that are none ({listed})")
    return state


def _entries(value: Any) -> dict[Any, Any]:
    """What a dict holds, of whatever class it is."""
    if isinstance(value, dict):
        return value
    return value.entries if isinstance(value, Made) else {}


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Made) and value.made_by in (_TENSOR, _PARAMETER)


class _Records:
    """The files inside an archive of torch: the pickle, and a file for the numbers that each tensor looks at."""

    def __init__(self, archive: ZipFile) -> None:
        self.archive = archive
        self.folder = archive.namelist()[0].split("/")[0]
        self.storages: dict[tuple[str, str], Tensor] = {}
        if "byteorder" in self and self.read("byteorder") != sys.byteorder.encode():
            raise UnreadableError("its bytes are in the other order than this machine's")

    def __contains__(self, name: str) -> bool:
        return f"{self.folder}/{name}" in self.archive.namelist()

    def read(self, name: str) -> bytes:
        record = self.archive.getinfo(f"{self.folder}/{name}")
        # torch compresses nothing, so that no file is larger inside than it is.
        if record.compress_type != ZIP_STORED:
            raise UnreadableError("its records are compressed")
        return self.archive.read(record)

    def tensor(self, made: Made) -> Tensor:
        """The tensor that a call of torch's own function would have made."""
        if made.made_by == _PARAMETER:
            return self.tensor(made.arguments[0])
        if made.made_by != _TENSOR:
            raise UnreadableError(f"it has tensors made by {made.made_by}")
        outside, offset, size, stride, _, _ = made.arguments
        return self._storage(outside).as_strided(size, stride, offset)

    def _storage(self, outside: Outside) -> Tensor:
        _, kind, key, _, count = outside.identifier
        known = (kind.name, key)
        if known not in self.storages:
            self.storages[known] = self._numbers(DTYPES[kind.name], f"data/{key}", count)
        return self.storages[known]

    def _numbers(self, dtype: torch.dtype, name: str, count: int) -> Tensor:
        # Writable, which torch asks for.
        numbers = bytearray(self.read(name))
        if len(numbers) != count * dtype.itemsize:
            raise UnreadableError(f"{name} has {len(numbers)} bytes where {count} numbers of {dtype} are said to be")
        return torch.frombuffer(numbers, dtype=dtype) if numbers else torch.empty(0, dtype=dtype)
