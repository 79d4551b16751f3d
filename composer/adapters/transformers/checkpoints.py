"""The weights of a folder, in the files that transformers would take them from, read without transformers."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from composer.adapters.archives import read_one_file, read_shards
from composer.adapters.huggingface import WEIGHT_FILES
from composer.tensors.files import SHARD_INDEX_SUFFIX


def read_folder_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder by name: of one file, or of the shards that its index names.

    As in transformers, a file goes before its index and safetensors before pickles, and no other file counts. Raises
    FileNotFoundError where there are none, and where a shard is not there; and ValueError for an index that is none
    or names what is outside the folder, and for a file that cannot be read.
    """
    for name in WEIGHT_FILES:
        whole, index = folder / name, folder / f"{name}{SHARD_INDEX_SUFFIX}"
        if whole.exists():
            return read_one_file(whole, whole.name)
        if index.exists():
            return read_shards(index)
    raise FileNotFoundError(f"there is neither {' nor '.join(WEIGHT_FILES)} in {folder}")
