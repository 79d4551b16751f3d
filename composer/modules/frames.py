"""Folding frames into the batch, so that an encoder of stills sees each, and back. T frames."""

from __future__ import annotations

import torch
from torch import Tensor


def fold_frames(film_BCTHW: Tensor) -> Tensor:
    """The frames of all films as one batch of stills `(b * t, c, h, w)`, film by film."""
    return film_BCTHW.transpose(1, 2).flatten(0, 1)


def unfold_frames(x: Tensor, batch: int, frames: int) -> Tensor:
    """What was given for the `stills` of films, with the axis `batch` taken apart again into films and `frames`."""
    return torch.unflatten(x, batch, (-1, frames))
