"""Running a network at image sizes that it may not take. B batch, C channels, H and W cells."""

from __future__ import annotations

from contextlib import nullcontext
from math import prod

import torch
from attrs import define
from torch import Tensor, nn

from composer.adapters.probing import Grids
from composer.adapters.shapes import ShapeInferenceMode


@define
class ShapeProbe:
    """Runs a network at image sizes that it may not take, and keeps what it raised, if it did, the last time."""

    encoder: nn.Module
    channels: int
    device: str
    axes: str
    widths: tuple[int, ...]
    error: Exception | None = None

    def compute_grids(self, height: int, width: int) -> Grids | None:
        """The grids of all levels for an image of (height, width), or None where the network does not take it."""
        self.error = None
        try:
            check_image_numbers(self.device, self.channels, height, width)
            with torch.no_grad(), ShapeInferenceMode() if self.device == "meta" else nullcontext():
                maps = self.encoder(torch.empty(1, self.channels, height, width, device=self.device))
        except Exception as error:  # whatever a network raises at a size that it does not take
            self.error = error
            return None
        # Some networks return garbage at a size they do not take, and its width gives them away.
        at = self.axes.split().index("c")
        fits = all(x.dim() == 4 and x.shape[at] == c for x, c in zip(maps, self.widths, strict=True))
        return tuple(_get_grid(x, self.axes) for x in maps) if fits else None


MAX_IMAGE_NUMBERS = 2**26
"""Numbers in an image that is computed on: a quarter of a gigabyte. A network makes many times as many of them."""


def check_image_numbers(device: str, *shape: int) -> None:
    """Raise MemoryError for an image that would take gigabytes to compute on. The meta device computes nothing."""
    if device != "meta" and prod(shape) > MAX_IMAGE_NUMBERS:
        raise MemoryError(f"an image of {prod(shape):,} numbers is more than the {MAX_IMAGE_NUMBERS:,} that are tried")


def _get_grid(x: Tensor, axes: str) -> tuple[int, int]:
    names_of_axes = axes.split()
    return x.shape[names_of_axes.index("h")], x.shape[names_of_axes.index("w")]
