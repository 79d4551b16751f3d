"""Read the weights that a spec names: one file, or the shards that an index of Hugging Face lists."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from composer.tensors.files import SHARD_INDEX_SUFFIX, read_tensor_file
from composer.tensors.unreadable import UnreadableError

STATE_DICT_KEYS = (
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


def read_file_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file by name; of an index of shards, those of all its shards.

    Tensors of one memory may share it. No library reads a file by itself: torch's own reader, though it runs
    nothing, can be kept busy for ever by a few hundred bytes. Raises FileNotFoundError where there is no file, and
    ValueError where a file cannot be read or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError("there is no such file")
    if path.name.endswith(SHARD_INDEX_SUFFIX):
        return read_shards(path)
    return read_one_file(path, "the file")


def read_shards(index: Path) -> dict[str, Tensor]:
    """Read the tensors of all shards that an index names. Raises as `read_file_weights` does."""
    return {name: tensor for shard in _list_shards(index) for name, tensor in read_one_file(shard, shard.name).items()}


def read_one_file(path: Path, called: str) -> dict[str, Tensor]:
    """Read the tensors of one file, which an error names as it is `called`. Raises ValueError."""
    try:
        return read_tensor_file(path, STATE_DICT_KEYS)
    except UnreadableError as error:
        raise ValueError(f"{called} {error}") from error


def _list_shards(index: Path) -> list[Path]:
    """The files that an index names, in transformers' order."""
    shards = [index.with_name(name) for name in _read_shard_names(index)]
    for shard in shards:
        if not shard.exists():
            raise FileNotFoundError(f"{index.name} names {shard.name}, which is not in {index.parent}")
    return shards


def _read_shard_names(index: Path) -> list[str]:
    try:
        told = json.loads(read_limited_text(index, MAX_INDEX_BYTES))
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


def read_limited_text(file: Path, most: int) -> str:
    """What a file says. Raises OSError for a pipe, and ValueError for one of more than `most` bytes."""
    if file.exists() and not file.is_file():
        raise OSError("it is no file")
    if file.is_file() and file.stat().st_size > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return file.read_text(encoding="utf-8")
