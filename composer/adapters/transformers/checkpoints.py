"""The weights of a folder, in the files that transformers would take them from, read without transformers."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from composer.adapters.archives import read_shards, read_tensors
from composer.adapters.huggingface import PUBLISHED
from composer.tensors.files import INDEX


def weights_of(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder by name: of one file, or of the shards that its index names.

    As in transformers, a file goes before its index and safetensors before pickles, and no other file counts. Raises
    FileNotFoundError where there are none, and where a shard is not there; and ValueError for an index that is none
    or names what is outside the folder, and for a file that cannot be read.
    """
    for name in PUBLISHED:
        whole, index = folder / name, folder / f"{name}{INDEX}"
        if whole.exists():
            return read_tensors(whole, whole.name)
        if index.exists():
            return read_shards(index)
    raise FileNotFoundError(f"there is neither {' nor '.join(PUBLISHED)} in {folder}")
