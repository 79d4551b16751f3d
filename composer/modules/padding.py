"""Padding an image to a size that a graph takes, and cropping back. B batch, C channels, H and W rows and columns.

Sizes may be symbols (torch.SymInt, while exporting with dynamic sizes), so nothing here branches on one.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pad_axis(x: Tensor, axis: int, before: int, length: int, mode: str) -> Tensor:
    """Extend `x` along `axis` to `length`, with `before` entries in front.

    `reflect` mirrors about the edge without repeating it, as far as the image goes, and repeats the last entry
    beyond that; `replicate` repeats the edge; `zeros` fills with 0.
    """
    size = x.shape[axis]
    if type(length) is not int or type(size) is not int:
        return _select_entries(x, axis, torch.arange(length, device=x.device) - before, mode)
    if length == size:
        return x
    # Only what is new is gathered: the image itself is copied in one piece, which is several times as fast.
    front = _select_entries(x, axis, torch.arange(-before, 0, device=x.device), mode)
    back = _select_entries(x, axis, torch.arange(size, length - before, device=x.device), mode)
    return torch.cat([front, x, back], dim=axis)


def _select_entries(x: Tensor, axis: int, index: Tensor, mode: str) -> Tensor:
    """The entries of `x` along `axis` at positions that may lie outside of it."""
    size = x.shape[axis]
    inside = index.clamp(0, size - 1)
    if mode == "reflect":
        beyond = index - inside
        # One past the edge mirrors to one inside it; clamped where the image is too short to mirror so far.
        inside = (inside - beyond).clamp(0, size - 1)
    entries = x.index_select(axis, inside)
    if mode != "zeros":
        return entries
    outside = (index < 0) | (index >= size)
    shape = [1] * x.dim()
    shape[axis] = -1
    return entries.masked_fill(outside.view(shape), 0)


def crop(x_BCHW: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """The rows from `top` and columns from `left` of a map: `height` by `width`, or as many as there are."""
    for axis, start, length in ((-2, top, height), (-1, left, width)):
        if type(start) is int and type(length) is int:
            x_BCHW = x_BCHW.narrow(axis, start, min(length, x_BCHW.shape[axis] - start))
        else:
            # A slice would ask whether it lies inside, which is not to be known of a symbol.
            x_BCHW = x_BCHW.index_select(axis, torch.arange(length, device=x_BCHW.device) + start)
    return x_BCHW
