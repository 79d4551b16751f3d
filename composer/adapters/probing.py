"""Probe a network on the meta device for shapes, strides and image sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from fractions import Fraction
from math import lcm, prod
from typing import Any

import torch
from attrs import define, evolve, field
from torch import Tensor, nn
from torch.nn import functional as F

from composer.layouts import CHANNELS_LAST, MAP, TOKENS, Feature, Features
from composer.modules.base import CallMode, SeededGenerator
from composer.parts import EncoderInfo
from composer.parts.base import Channels
from composer.parts.rules import Rejection, RejectionError
from composer.sizes import SizeConstraint

Grids = tuple[tuple[int, int], ...]
"""(rows, columns) of each level."""

GridFunction = Callable[[int, int], Grids | None]
"""The grids of a network for an image of (height, width); None where it raises."""


def probe_on_devices(probe_on: Callable[[str], EncoderInfo | Rejection]) -> EncoderInfo | Rejection:
    """Return the result of `probe_on("meta")`; that of `probe_on("cpu")` where the network does not run on meta.

    The meta device has no values, which some networks read in their forward pass. A rejection that `probe_on` raises
    as a RejectionError holds on both devices.
    """
    try:
        result = probe_on("meta")
        if isinstance(result, Rejection) and (result.code, result.kind) == ("part", "raises"):
            with SeededGenerator():
                result = probe_on("cpu")
    except RejectionError as error:
        return error.rejection
    return result


def find_patch_size(network: nn.Module) -> tuple[int, int] | None:
    """Return the height and width of a patch in pixels, from the first module that has a `patch_size`; else None."""
    for child in network.modules():
        patch = getattr(child, "patch_size", None)
        if type(patch) is int:
            return patch, patch
        if isinstance(patch, list | tuple) and patch:
            # A single number is both sides, and the first of three is the frames.
            return int(patch[-2:][0]), int(patch[-1])
    return None


@define
class ShapeProbe:
    """Runs an encoder on images of any size, and keeps the exception of the last run and the layouts of the levels.

    `channels` are those of the image; of several images, those of each by name. `axes` is the layout of the levels
    with four axes; where it is None, their aspect ratio tells rows and columns from channels. Levels with three axes
    are tokens, `patch` pixels a cell (None: one token for the image) and `token_frames` frames. `widths` are the
    channels of the levels; where they are None, the layouts of the first image count. Some networks return garbage at
    sizes that they do not take: an image at which the layouts differ counts as rejected and clears `steady`. Where
    `only_size` is set, an image of another size counts as rejected without a run.
    """

    encoder: Callable[[Any], Iterable[Any]]
    channels: Channels
    device: str
    axes: str | None = None
    widths: tuple[int, ...] | None = None
    patch: tuple[int, int] | None = field(default=None, kw_only=True)
    frames: int | None = field(default=None, kw_only=True)
    token_frames: int = field(default=1, kw_only=True)
    only_size: tuple[int, int] | None = field(default=None, kw_only=True)
    error: Exception | None = field(default=None, init=False)
    layouts: Features | None = field(default=None, init=False)
    steady: bool = field(default=True, init=False)

    def __attrs_post_init__(self) -> None:
        if self.widths is not None:
            self.layouts = tuple(Feature(axes=self.axes or MAP, channels=width) for width in self.widths)

    def compute_grids(self, height: int, width: int) -> Grids | None:
        """Return the grids of all levels for an image of (height, width); None where the network does not take it."""
        self.error = None
        if self.only_size not in (None, (height, width)):
            return None
        try:
            with torch.no_grad(), ShapeInferenceMode() if self.device == "meta" else nullcontext():
                levels = [self._measure_level(x, height, width) for x in self.encoder(self.make_input(height, width))]
        except Exception as error:  # whatever a network raises at a size that it does not take
            self.error = error
            return None
        layouts = tuple(layout for layout, _ in levels if layout is not None)
        if len(layouts) < len(levels):
            return None
        self.layouts = self.layouts or layouts
        self.steady = self.steady and layouts == self.layouts
        return tuple(grid for _, grid in levels) if layouts == self.layouts else None

    def build_features(self, strides: Iterable[Fraction]) -> Features:
        """Return the features of the levels that were measured, with these strides."""
        return tuple(evolve(layout, stride=stride) for layout, stride in zip(self.layouts or (), strides, strict=True))

    def make_input(self, height: int, width: int) -> Any:
        """Return an image of zeros, or one for each name. Raises MemoryError for one on the CPU that is too large."""
        if not isinstance(self.channels, int):
            return {name: evolve(self, channels=count).make_input(height, width) for name, count in self.channels}
        shape = (self.channels, *(() if self.frames is None else (self.frames,)), height, width)
        if self.device != "meta" and prod(shape) > MAX_IMAGE_NUMBERS:
            raise MemoryError(f"an image of {prod(shape):,} numbers exceeds the {MAX_IMAGE_NUMBERS:,} that are tried")
        # Uninitialised memory may hold NaN, and some networks draw at random by the values of the image.
        return torch.zeros(1, *shape, device=self.device)

    def _measure_level(self, x: Any, height: int, width: int) -> tuple[Feature | None, tuple[int, int]]:
        """Return the layout and the grid of a level; no layout where there are fewer tokens than cells."""
        if not isinstance(x, Tensor) or x.dim() not in (3, 4):
            raise TypeError(f"it gives {f'a tensor of {x.dim()} axes' if isinstance(x, Tensor) else type(x).__name__}")
        if x.dim() == 4:
            axes = self.axes or (MAP if height * x.shape[3] == width * x.shape[2] else CHANNELS_LAST)
            shape = dict(zip(axes.split(), x.shape, strict=True))
            return Feature(axes=axes, channels=shape["c"]), (shape["h"], shape["w"])
        # The number of tokens alone does not tell rows from columns.
        rows, columns = self.patch or (height, width)
        grid = height // rows, width // columns
        prefix = x.shape[1] - self.token_frames * prod(grid)
        if prefix < 0:
            return None, grid
        return Feature(axes=TOKENS, channels=x.shape[2], prefix=prefix, frames=self.token_frames), grid


MAX_IMAGE_NUMBERS = 2**26
"""Numbers in an image on the CPU: a quarter of a gigabyte. The activations of a network are many times as large."""


def find_strides_and_sizes(
    grids_at: GridFunction, size: tuple[int, int], reductions: tuple[int, ...] | None = None
) -> tuple[tuple[Fraction, ...], SizeConstraint] | None:
    """Return the exact strides of a network's levels, and the image sizes at which they hold.

    `size` is one that the network takes, `reductions` the strides that its library states (None: those at `size`).
    They are believed only where they hold at two sizes that are not square, on odd and even grids. Block attention
    and the like need 2, 4 or 8 times the largest reduction. A network that takes no other size, or whose grids do not
    follow its strides, is described at `size` alone, where any grid is an exact ratio of the image. None where the
    two sides have different strides there.
    """
    grids = grids_at(*size) if reductions is None else None
    if reductions is None and grids is None:
        return None
    step = lcm(*(reductions or (max(1, round(size[0] / max(rows, 1))) for rows, _ in grids or ())))
    if step <= max(size):
        for multiple in (step, 2 * step, 4 * step, 8 * step):
            strides = _find_flexible_strides(grids_at, size, multiple)
            if strides is not None:
                least = _find_min_side(grids_at, strides, multiple, max(size))
                return strides, SizeConstraint(multiple=multiple, least=least)
    strides = _compute_strides_at(grids_at, *size)
    return None if strides is None else (strides, SizeConstraint(height=size[0], width=size[1]))


def _find_flexible_strides(grids_at: GridFunction, size: tuple[int, int], multiple: int) -> tuple[Fraction, ...] | None:
    odd = max(size) // multiple | 1
    tall, wide = (odd * multiple, (odd + 1) * multiple), ((odd + 1) * multiple, max(odd - 2, 1) * multiple)
    strides = _compute_strides_at(grids_at, *tall)
    return strides if strides is not None and strides == _compute_strides_at(grids_at, *wide) else None


def _compute_strides_at(grids_at: GridFunction, height: int, width: int) -> tuple[Fraction, ...] | None:
    grids = grids_at(height, width)
    if grids is None or any(height * columns != width * rows or 0 in (rows, columns) for rows, columns in grids):
        return None
    return tuple(Fraction(height, rows) for rows, _ in grids)


def _find_min_side(grids_at: GridFunction, strides: tuple[Fraction, ...], multiple: int, known: int) -> int:
    """Return the smallest multiple at which the network runs and keeps its strides."""
    for side in range(multiple, known, multiple):
        if _compute_strides_at(grids_at, side, side) == strides:
            return side
    return multiple * -(-known // multiple)


class CPULinspace(CallMode):
    """A context in which `torch.linspace` has values on any device: many networks read the drop rate of each block
    off such a tensor.
    """

    def call(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Return `func` of its arguments, on the CPU where it is `torch.linspace`."""
        return func(*args, **kwargs | ({"device": "cpu"} if func is torch.linspace else {}))


class ShapeInferenceMode(CallMode):
    """A context in which norms return what they are given: on the meta device they take most of the time."""

    def call(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Return `func` of its arguments, or the first of them where that has its shape and memory format."""
        if func is F.layer_norm and args[0].shape[-1:] == tuple(args[1]):
            return args[0].contiguous()
        if func is F.batch_norm and args[1] is not None and len(args[1]) == args[0].shape[1] and _is_plain(args[0]):
            return args[0]
        return func(*args, **kwargs)


def _is_plain(x: Tensor) -> bool:
    """Return whether a tensor is in one of the usual memory formats, which a norm over channels keeps."""
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
