"""Bringing one map to the grid of another. B batch, C channels, H and W cells."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from composer.feature import Feature


def is_same_grid(one: Feature, other: Feature) -> bool:
    """Whether two maps have equally many cells at every image size, so that neither has to be resized."""
    return (one.stride, one.rounding, one.offset) == (other.stride, other.rounding, other.offset)


def resize_like(x_BCHW: Tensor, like: Tensor, mode: str, *, align_corners: bool | None = None) -> Tensor:
    """`x_BCHW` on the grid of `like`: to its size and not by a factor, because sizes may have been rounded."""
    height, width = like.shape[-2:]
    return F.interpolate(x_BCHW, size=(height, width), mode=mode, align_corners=align_corners)
