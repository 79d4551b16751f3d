"""Read the weights that a spec names: one file, or the shards that an index of Hugging Face lists."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from composer.tensors.files import INDEX, tensors_in
from composer.tensors.unreadable import UnreadableError

UNDER = (
    "state_dict_ema",
    "model_ema",
    "state_dict",
    "model_state_dict",
    "model",
    "model_state",
    "module",
)
"""Where a file may hold the state dict, if it is not one itself: averaged weights first, as in timm."""

MAX_INDEX_BYTES = 2**24
"""The size of a list of shards, which has about a hundred bytes for each weight."""


def weights_in(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file by name; of an index of shards, those of all its shards.

    Tensors of one memory may share it. No library reads a file by itself: torch's own reader, though it runs
    nothing, can be kept busy for ever by a few hundred bytes. Raises FileNotFoundError where there is no file, and
    ValueError where a file cannot be read or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError("there is no such file")
    if path.name.endswith(INDEX):
        return read_shards(path)
    return read_tensors(path, "the file")


def read_shards(index: Path) -> dict[str, Tensor]:
    """Read the tensors of all shards that an index names. Raises as `weights_in` does."""
    return {name: tensor for shard in _shards(index) for name, tensor in read_tensors(shard, shard.name).items()}


def read_tensors(path: Path, called: str) -> dict[str, Tensor]:
    """Read the tensors of one file, which an error names as it is `called`. Raises ValueError."""
    try:
        return tensors_in(path, UNDER)
    except UnreadableError as error:
        raise ValueError(f"{called} {error}") from error


def _shards(index: Path) -> list[Path]:
    """The files that an index names, in transformers' order."""
    shards = [index.with_name(name) for name in _names(index)]
    for shard in shards:
        if not shard.exists():
            raise FileNotFoundError(f"{index.name} names {shard.name}, which is not in {index.parent}")
    return shards


def _names(index: Path) -> list[str]:
    try:
        told = json.loads(text_of(index, MAX_INDEX_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{index.name} cannot be read ({error})") from error
    weights = told.get("weight_map") if isinstance(told, dict) else None
    if not isinstance(weights, dict) or not weights or not all(isinstance(name, str) for name in weights.values()):
        raise ValueError(f"{index.name} has no weight_map that names the file of each weight")
    names = sorted(set(weights.values()))
    for name in names:
        if name in {"", ".", ".."} or "/" in name or "\\" in name:
            raise ValueError(f"{index.name} names {name!r}, which is no file beside it")
    return names


def text_of(file: Path, most: int) -> str:
    """What a file says. Raises OSError for a pipe, and ValueError for one of more than `most` bytes."""
    if file.exists() and not file.is_file():
        raise OSError("it is no file")
    if file.is_file() and file.stat().st_size > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return file.read_text(encoding="utf-8")
