"""Whether the Hugging Face hub has weights to give: asked once, because its client asks again for most of a minute."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""The files in which weights are looked for where a network does not name its own."""


def check_reachable(repository: str, file: str | None = None, timeout: float = 10) -> None:
    """Return where weights of `repository` (`owner/name`, perhaps `@revision`) are here already, or the hub answers.

    Whatever the hub answers, also that it has no such file, is left to the one who then downloads. Raises the
    client's error where the hub cannot be reached within `timeout` seconds.
    """
    name, _, revision = repository.partition("@")
    files = [file] if file else WEIGHT_FILES
    if any(isinstance(try_to_load_from_cache(name, one, revision=revision or None), str) for one in files):
        return
    try:
        get_hf_file_metadata(hf_hub_url(name, files[0], revision=revision or None), timeout=timeout)
    except HfHubHTTPError:
        return


def fetch_file(repository: str, file: str) -> Path:
    """A file of a repository: from the cache, or downloaded. Raises the client's error where it cannot be had."""
    check_reachable(repository, file)
    return Path(hf_hub_download(repository, file))
