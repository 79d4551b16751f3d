"""Find and read the weights files of libraries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from torch import Tensor, nn

from composer.parts.encoders import Pretrained, get_weights_file
from composer.parts.rules import Rejection
from composer.tensors.files import UnreadableError, read_tensor_file
from composer.tensors.files import read_limited_text as read_limited_text
from composer.tensors.matching import MismatchError

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""The files in which weights are looked for where a network does not name its own."""

STATE_DICT_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "model_state", "module")
"""The keys under which a file may hold the state dict: averaged weights first, as in timm."""


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
    """Read the tensors of a file by name; of a list of shards, those of all its shards. Raises ValueError.

    Libraries do not read a file themselves: torch's own reader can be kept busy forever by a few hundred bytes.
    """
    try:
        return read_tensor_file(path, STATE_DICT_KEYS)
    except UnreadableError as error:
        raise ValueError(f"{path.name} {error}") from error


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
