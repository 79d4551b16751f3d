"""The weights of a folder, in the files that transformers would take them from, read without transformers."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from composer.adapters.huggingface import PUBLISHED
from composer.adapters.transformers.configs import text_of
from composer.tensors.files import tensors_in
from composer.tensors.unreadable import UnreadableError

INDEX = ".index.json"
"""What stands behind the name of a file in that of the list of its shards."""

MOST_BYTES = 2**24
"""The size of a list of shards, which has about a hundred bytes for each weight."""


def weights_of(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder by name: of one file, or of the shards that its index names.

    As in transformers, a file goes before its index and safetensors before pickles, and no other file counts. Raises
    FileNotFoundError where there are none, and where a shard is not there; and ValueError for an index that is none
    or names what is outside the folder, and for a file that cannot be read.
    """
    for name in PUBLISHED:
        whole, index = folder / name, folder / f"{name}{INDEX}"
        if whole.exists():
            return _read(whole)
        if index.exists():
            return {name: tensor for shard in _shards(index) for name, tensor in _read(shard).items()}
    raise FileNotFoundError(f"there is neither {' nor '.join(PUBLISHED)} in {folder}")


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return tensors_in(file)
    except UnreadableError as error:
        raise ValueError(f"{file.name} {error}") from error


def _shards(index: Path) -> list[Path]:
    """The files that an index names, in transformers' order."""
    shards = [index.with_name(name) for name in _names(index)]
    for shard in shards:
        if not shard.exists():
            raise FileNotFoundError(f"{index.name} names {shard.name}, which is not in {index.parent}")
    return shards


def _names(index: Path) -> list[str]:
    try:
        told = json.loads(text_of(index, MOST_BYTES))
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
