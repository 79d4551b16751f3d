"""Find and read the weights files of libraries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from torch import Tensor, nn

from composer.parts.encoders import Pretrained, get_weights_file
from composer.parts.rules import Rejection
from composer.tensors import UnreadableError
from composer.tensors.files import SHARD_INDEX_SUFFIX, read_tensor_file
from composer.tensors.matching import MismatchError

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""The files in which weights are looked for where a network does not name its own."""

STATE_DICT_KEYS = (
    "state_dict_ema",
    "model_ema",
    "state_dict",
    "model_state_dict",
    "model",
    "model_state",
    "module",
)
"""The keys under which a file may hold the state dict: averaged weights first, as in timm."""

MAX_INDEX_BYTES = 2**24  # about 100 for each weight


def check_reachable(repository: str, file: str | None = None, timeout: float = 10) -> None:
    """Return where weights of `repository` (`owner/name`, perhaps `@revision`) are cached, or the hub answers.

    Any answer of the hub counts, also that it has no such file. Raises the client's error where the hub does not
    answer within `timeout` seconds.
    """
    name, _, revision = repository.partition("@")
    files = [file] if file else WEIGHT_FILES
    if any(isinstance(try_to_load_from_cache(name, path, revision=revision or None), str) for path in files):
        return
    try:
        get_hf_file_metadata(hf_hub_url(name, files[0], revision=revision or None), timeout=timeout)
    except HfHubHTTPError:
        return


def fetch_file(repository: str, file: str) -> Path:
    """Return a file of a repository, from the cache or downloaded. Raises the client's error where that fails."""
    check_reachable(repository, file)
    return Path(hf_hub_download(repository, file))


@contextmanager
def record_loaded_state(network: nn.Module) -> Iterator[list[dict[str, Tensor]]]:
    """Within it, `network.load_state_dict` loads nothing, and its argument is added to the list."""
    states: list[dict[str, Tensor]] = []

    def store_state(_: nn.Module, state: dict[str, Tensor], *__: Any) -> None:
        states.append(dict(state))
        state.clear()
        state.update(network.state_dict())

    handle = network.register_load_state_dict_pre_hook(store_state)  # type: ignore[no-untyped-call]
    try:
        yield states
    finally:
        handle.remove()


def read_file_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file by name; of an index of shards, those of all its shards.

    Libraries do not read a file themselves: torch's own reader can be kept busy forever by a few hundred bytes.
    Raises FileNotFoundError where there is no file, and ValueError where it cannot be read or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError("there is no such file")
    if path.name.endswith(SHARD_INDEX_SUFFIX):
        return read_shards(path)
    return read_one_file(path, "the file")


def read_shards(index: Path) -> dict[str, Tensor]:
    """Read the tensors of all shards that an index names. Raises as `read_file_weights` does."""
    shards = [index.with_name(name) for name in _read_shard_names(index)]
    for shard in shards:
        if not shard.exists():
            raise FileNotFoundError(f"{index.name} names {shard.name}, which is not in {index.parent}")
    return {name: tensor for shard in shards for name, tensor in read_one_file(shard, shard.name).items()}


def read_one_file(path: Path, called: str) -> dict[str, Tensor]:
    """Read the tensors of one file, which an error names as it is `called`. Raises ValueError."""
    try:
        return read_tensor_file(path, STATE_DICT_KEYS)
    except UnreadableError as error:
        raise ValueError(f"{called} {error}") from error


def _read_shard_names(index: Path) -> list[str]:
    """Return the names of the files beside an index that it lists, in transformers' order."""
    try:
        content = json.loads(read_limited_text(index, MAX_INDEX_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{index.name} cannot be read ({error})") from error
    weights = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not weights or not all(isinstance(name, str) for name in weights.values()):
        raise ValueError(f"{index.name} has no weight_map that names the file of each weight")
    names = sorted(set(weights.values()))
    for name in names:
        if name in {"", ".", ".."} or "/" in name or "\\" in name:
            raise ValueError(f"{index.name} names {name!r}, which is not a file beside it")
    return names


def read_limited_text(file: Path, most: int) -> str:
    """Return the text of a file. Raises OSError for a pipe, and ValueError for more than `most` bytes."""
    if file.exists() and not file.is_file():
        raise OSError("it is not a file")
    if file.is_file() and file.stat().st_size > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return file.read_text(encoding="utf-8")


def reject_weights(expected: str, error: Exception, fix: str, source: Pretrained) -> Rejection:
    """Build the rejection for `error`. `fix` is the next step, unless the error has one; `source` is the field."""
    if isinstance(error, MismatchError):
        got = str(error)
        file = get_weights_file(source)
        fix = error.fix.replace("FILE", file[0]) if error.fix and file else fix
    else:
        # torch lists mismatches from its second line on; the first few names are enough to recognise the network.
        got = f"{type(error).__name__}: {' '.join(str(error).split())[:300] or 'no reason given'}"
    return Rejection(code="weights", kind="raises", expected=expected, got=got, fix=fix, about="pretrained")


def reject_pretrained(source: Pretrained, error: Exception, published: str) -> Rejection:
    """Build the rejection of the weights of a file, or of those that a library publishes; `source` is the field."""
    file = get_weights_file(source)
    if file is None:
        named, fix = published, "check the connection, give the path of a weights file, or set pretrained: false"
    else:
        named, fix = file[0], "give the path of a weights file that fits this network"
    return reject_weights(f"cannot load the weights {named}", error, fix, source)
