"""Layers and tensor functions that several modules share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from composer.layouts import Feature
from composer.parts.validators import FINAL_ACTIVATIONS

_ACTIVATION_CLASSES: dict[str, type[nn.Module]] = {name: getattr(nn, name) for name in FINAL_ACTIVATIONS}


def build_activation(name: str) -> nn.Module:
    """Build the activation of torch with this name. Softmax is over the channels, axis 1.

    Raises KeyError for a name that is not in `FINAL_ACTIVATIONS`.
    """
    return nn.Softmax(dim=1) if name == "Softmax" else _ACTIVATION_CLASSES[name]()


def build_conv_norm_act(incoming: int, outgoing: int, kernel: int, dilation: int = 1) -> nn.Module:
    """Build a convolution without bias that keeps the grid, batch norm and ReLU, named `conv`, `norm`, `act`."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(incoming, outgoing, kernel, padding=padding, dilation=dilation, bias=False),
            norm=nn.BatchNorm2d(outgoing),
            act=nn.ReLU(inplace=True),
        )
    )


def is_same_grid(one: Feature, other: Feature) -> bool:
    """Return whether two maps have equal sizes for every image size, so that neither has to be resized."""
    return (one.stride, one.rounding, one.offset) == (other.stride, other.rounding, other.offset)


def resize_like(x_BCHW: Tensor, like: Tensor, mode: str, *, align_corners: bool | None = None) -> Tensor:
    """Resize `x_BCHW` to the size of `like`: not by a factor, because sizes may have been rounded."""
    height, width = like.shape[-2:]
    return F.interpolate(x_BCHW, size=(height, width), mode=mode, align_corners=align_corners)


def make_contiguous_for_training(x: Tensor, like: Tensor) -> Tensor:
    """Return `x`, contiguous where `like` is contiguous, gradients are on and both are on the CPU.

    oneDNN's backward pass of a convolution takes twice as long in channels-last memory. Inputs in channels-last memory
    keep it. A compiler chooses memory formats itself.
    """
    if torch.is_grad_enabled() and like.is_cpu and not torch.compiler.is_compiling() and like.is_contiguous():
        return x.contiguous()
    return x


class AdaptiveAveragePool(nn.AdaptiveAvgPool2d):
    """Average over a grid of windows as torch's AdaptiveAvgPool2d does, also when exported with dynamic sizes.

    The exporters unroll torch's class at the size of the example. Two products with 0/1 windows are equal up to
    rounding. They are written as sums because matmul asks whether a symbolic side is 1, which export rejects.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return `(b, c, n, n)`, the averages over a grid of n × n overlapping windows."""
        height, width = x_BCHW.shape[-2:]
        if (type(height) is int and type(width) is int) or not torch.compiler.is_exporting():
            averaged: Tensor = super().forward(x_BCHW)
            return averaged
        cells = int(self.output_size)  # type: ignore[arg-type]
        rows, columns = (_compute_window_weights(cells, side, x_BCHW) for side in (height, width))
        x_BCNW = (x_BCHW.unsqueeze(-3) * rows.unsqueeze(-1)).sum(-2)
        return (x_BCNW.unsqueeze(-2) * columns).sum(-1)


def _compute_window_weights(cells: int, side: int, like: Tensor) -> Tensor:
    """Return the weights `(cells, side)` of each average: cell i covers floor(i·side/n) to ceil((i+1)·side/n)."""
    index = torch.arange(cells, device=like.device)[:, None]
    start = index * side // cells
    end = ((index + 1) * side + cells - 1) // cells
    position = torch.arange(side, device=like.device)
    inside = ((position >= start) & (position < end)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


def fold_frames(x_BCTHW: Tensor) -> Tensor:
    """Fold frames into the batch: `(b, c, t, h, w)` to `(b * t, c, h, w)`."""
    return x_BCTHW.transpose(1, 2).flatten(0, 1)


def unfold_frames(x: Tensor, batch: int, frames: int) -> Tensor:
    """Unfold the frames of a tensor: split its axis `batch` into batch and `frames`."""
    return torch.unflatten(x, batch, (-1, frames))


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
    # Only the padding is gathered: copying the image in one piece is several times as fast.
    front = _select_entries(x, axis, torch.arange(-before, 0, device=x.device), mode)
    back = _select_entries(x, axis, torch.arange(size, length - before, device=x.device), mode)
    return torch.cat([front, x, back], dim=axis)


def _select_entries(x: Tensor, axis: int, index: Tensor, mode: str) -> Tensor:
    """Return the entries of `x` along `axis` at positions that may be outside of it."""
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
    """Crop a map to `height` rows from `top` and `width` columns from `left`, or as many as it has."""
    for axis, start, length in ((-2, top, height), (-1, left, width)):
        if type(start) is int and type(length) is int:
            x_BCHW = x_BCHW.narrow(axis, start, min(length, x_BCHW.shape[axis] - start))
        else:
            # A slice would check its bounds, which fails for a symbol.
            x_BCHW = x_BCHW.index_select(axis, torch.arange(length, device=x_BCHW.device) + start)
    return x_BCHW


def get_module_path(name: str) -> tuple[str, ...]:
    """Return the attributes that lead to a node's module: `necks[0]` is `necks`, `0`."""
    return tuple(name.replace("[", ".").replace("]", "").split("."))


def attach_modules(root: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Attach modules to `root` by their names, with containers between."""
    tree: dict[str, Any] = {}
    for name, module in modules.items():
        *above, last = get_module_path(name)
        branch = tree
        for segment in above:
            branch = branch.setdefault(segment, {})
        branch[last] = module
    for name, child in _build_containers(tree):
        root.add_module(name, child)


def _build_containers(tree: Mapping[str, Any]) -> Iterator[tuple[str, nn.Module]]:
    for name, child in tree.items():
        yield name, child if isinstance(child, nn.Module) else _build_container(dict(_build_containers(child)))


def _build_container(children: Mapping[str, nn.Module]) -> nn.Module:
    if list(children) == [str(index) for index in range(len(children))]:
        return nn.ModuleList(children.values())
    return nn.ModuleDict(children)
