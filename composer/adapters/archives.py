"""The weights of a file that a spec names, for the libraries whose network will have them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from composer.tensors.files import tensors_in
from composer.tensors.torch_files import UNDER
from composer.tensors.unreadable import UnreadableError


def weights_in(path: Path, under: Sequence[str] = UNDER) -> dict[str, Tensor]:
    """The tensors of a file by name, of which those of one memory may share it.

    Its state dict may stand under a name of `under`. No library reads a file by itself: torch's own reader, though it
    runs nothing, can be kept busy for ever by a few hundred bytes. Raises ValueError where the file cannot be read,
    or holds something else.
    """
    try:
        return tensors_in(path, under)
    except UnreadableError as error:
        raise ValueError(f"the file {error}") from error
