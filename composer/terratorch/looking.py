"""What a live encoder gives, seen by running it over zeros. B batch, C channels, N tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, cast

import torch
from attrs import define, evolve, frozen
from torch import Tensor, nn

from composer.adapters.patches import patch_of
from composer.adapters.probing import Grids, GridsAt, strides_and_sizes
from composer.adapters.rounding import Misfit, rounded, with_offsets
from composer.feature import CHANNELS_LAST, MAP, TOKENS, Feature, Features
from composer.modules import module as module_of
from composer.modules.custom import in_eval_mode
from composer.modules.generators import OwnGenerator
from composer.parts import Custom, Neck, PermuteDims, ReshapeTokensToImage, SelectIndices
from composer.sizes import Sizes

USUAL_SIDE = 224
"""Where a module says nothing of the images that it takes, this is tried."""

FURTHER = 192
"""Pixels more, which are a whole number of cells of each stride that networks have."""


@frozen
class Look:
    """What was seen: the module as a declared encoder, and the necks that do what its own hook does."""

    encoder: Custom
    fallback: tuple[Neck, ...] = ()


def look_at(network: nn.Module, frames: int | None, channels: int | None = None) -> Look | str:
    """What a network gives, or why that cannot be told. `frames` is given where it is to run on each frame alone.

    `channels` is how many it takes, where that is stated; else what its layers seem to take is tried. It is run in
    eval mode, without gradients, over zeros of the size that it seems to take; its weights, its mode and torch's
    random state are left as they were.
    """
    reasons = ["it says neither how many channels nor what size it takes"]
    for count, together, size in _images(network, frames, channels):
        run = _Run(network, count, together)
        maps = run.features(*size)
        if maps is None:
            reasons.append(f"it raised {run.error}")
            continue
        found = _described(run, maps, size)
        if not isinstance(found, str):
            return Look(found, _hook(network, found, maps, size))
        reasons.append(found)
    return reasons[min(1, len(reasons) - 1)]


def _images(
    network: nn.Module, frames: int | None, told: int | None
) -> Iterator[tuple[int, int | None, tuple[int, int]]]:
    """Channels, frames and size that a network might take, the likeliest first."""
    size = _size_of(network)
    stated = next((n for child in network.modules() if (n := getattr(child, "num_frames", None))), None)
    channels = dict.fromkeys([told] if told else [*_channels_of(network), *_channels_of_stem(network), 3])
    for count in channels:
        yield count, None, size
        if frames is None and isinstance(stated, int):
            yield count, stated, size


def _channels_of(network: nn.Module) -> Iterator[int]:
    for child in network.modules():
        for name in ("in_chans", "in_channels"):
            if type(count := getattr(child, name, None)) is int:
                yield count
                return


def _channels_of_stem(network: nn.Module) -> Iterator[int]:
    """What the first layers take: a convolution, or a linear layer over all the pixels of a patch."""
    patch = patch_of(network)
    for child in network.modules():
        if isinstance(child, nn.Conv2d | nn.Conv3d):
            yield child.in_channels
            return
        if isinstance(child, nn.Linear) and patch is not None:
            count, rest = divmod(child.in_features, patch[0] * patch[1])
            if count and not rest:
                yield count
                return


def _size_of(network: nn.Module) -> tuple[int, int]:
    for child in network.modules():
        size = getattr(child, "img_size", None)
        if type(size) is int:
            return size, size
        if isinstance(size, list | tuple) and len(size) >= 2 and all(type(side) is int for side in size):
            return size[-2], size[-1]
    return USUAL_SIDE, USUAL_SIDE


@define
class _Run:
    """Runs a network over zeros, and keeps what it raised last."""

    network: nn.Module
    channels: int
    frames: int | None
    error: str = ""

    def features(self, height: int, width: int) -> Sequence[Tensor] | None:
        """What it gives for one image; None where it raises, or gives no tensors."""
        parameter = next(self.network.parameters(), torch.empty(0))
        frames = () if self.frames is None else (self.frames,)
        image = torch.zeros(1, self.channels, *frames, height, width, dtype=parameter.dtype, device=parameter.device)
        try:
            with torch.no_grad(), OwnGenerator(), in_eval_mode(self.network):
                out = self.network(image)
        except Exception as error:  # whatever a network raises for an image that it does not take
            self.error = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
            return None
        levels = [out] if isinstance(out, Tensor) else out
        if not isinstance(levels, list | tuple) or not levels or not all(isinstance(x, Tensor) for x in levels):
            self.error = f"nothing, but gave {type(out).__name__} in place of a list of tensors"
            return None
        return levels


def _described(run: _Run, levels: Sequence[Tensor], size: tuple[int, int]) -> Custom | str:
    patch = patch_of(run.network)
    stated: list[int] = list(cast(Any, run.network).out_channels)
    layouts = [_layout(x, stated[i] if i < len(stated) else None, patch, size) for i, x in enumerate(levels)]
    kinds = [layout for layout in layouts if layout is not None]
    if len(kinds) < len(levels):
        return f"gave tensors that are neither maps nor tokens: {[tuple(x.shape) for x in levels]}"

    def grids_at(height: int, width: int) -> Grids | None:
        tried = run.features(height, width)
        if tried is None or len(tried) != len(levels):
            return None
        grids = [layout.grid(x, height, width) for layout, x in zip(kinds, tried, strict=True)]
        whole = tuple(grid for grid in grids if grid is not None)
        return whole if len(whole) == len(grids) else None

    grids = grids_at(*size)
    assert grids is not None
    found = strides_and_sizes(grids_at, size, tuple(max(round(size[0] / rows), 1) for rows, _ in grids))
    if found is None:
        return "its cells are not square"
    strides, sizes = found
    features = tuple(layout.feature(stride) for layout, stride in zip(kinds, strides, strict=True))
    if patch is None and sizes.height is None:
        # TerraTorch pads for patches alone, so that the rest is fed images of any size.
        found_out = rounded(grids_at, features, sizes, 2 * max(sizes.multiple, sizes.least))
        features, sizes = (features, sizes) if isinstance(found_out, Misfit) else found_out
    elif patch is None:
        features, sizes = _with_offsets(grids_at, features, size) or (features, sizes)
    return Custom(run.network, features=features, channels=run.channels, sizes=sizes, frames=run.frames)


def _with_offsets(grids_at: GridsAt, features: Features, size: tuple[int, int]) -> tuple[Features, Sizes] | None:
    """The levels of a network that was found to take one size, where they are whole at none because of their borders.

    What it has more of in a larger image tells its strides, whatever it loses at the borders.
    """
    here, further = grids_at(*size), grids_at(*(side + FURTHER for side in size))
    if here is None or further is None or any(one[0] >= other[0] for one, other in zip(here, further, strict=True)):
        return None
    more = [other[0] - one[0] for one, other in zip(here, further, strict=True)]
    strided = tuple(evolve(f, stride=Fraction(FURTHER, cells)) for f, cells in zip(features, more, strict=True))
    return with_offsets(grids_at, strided, max(size))


@frozen
class _Layout:
    """The layout of a level: a map, or tokens of patches of `patch` pixels."""

    axes: str
    channels: int
    patch: tuple[int, int] = (1, 1)
    prefix: int = 0
    frames: int = 1

    def grid(self, x: Tensor, height: int, width: int) -> tuple[int, int] | None:
        """Rows and columns of a level for an image of this size; None where its shape is another."""
        if x.dim() != len(self.axes.split()):
            return None
        shape = dict(zip(self.axes.split(), x.shape, strict=True))
        if shape["c"] != self.channels:
            return None
        if self.axes != TOKENS:
            return shape["h"], shape["w"]
        rows, columns = height // self.patch[0], width // self.patch[1]
        return (rows, columns) if shape["n"] == self.prefix + self.frames * rows * columns else None

    def feature(self, stride: Any) -> Feature:
        return Feature(channels=self.channels, stride=stride, axes=self.axes, prefix=self.prefix, frames=self.frames)


def _layout(x: Tensor, stated: int | None, patch: tuple[int, int] | None, size: tuple[int, int]) -> _Layout | None:
    if x.dim() == 4:
        # The channels that the backbone states tell a channels-last map; in doubt it is the usual layout.
        last = x.shape[1] != stated and x.shape[3] == stated
        return _Layout(CHANNELS_LAST, x.shape[3]) if last else _Layout(MAP, x.shape[1])
    if x.dim() != 3 or patch is None:
        return None
    cells = (size[0] // patch[0]) * (size[1] // patch[1])
    return _Layout(TOKENS, x.shape[2], patch, prefix=x.shape[1] % cells, frames=max(x.shape[1] // cells, 1))


def _hook(network: Any, encoder: Custom, levels: Sequence[Tensor], size: tuple[int, int]) -> tuple[Neck, ...]:
    """The necks that do what `prepare_features_for_image_model` does, which TerraTorch calls where none are given.

    It lays tokens out as maps, some of all levels and some of the last one alone, and guesses a square grid; or it
    brings the channels of maps to the front.
    """
    prepare = getattr(network, "prepare_features_for_image_model", None)
    if prepare is None:
        return ()
    try:
        theirs = list(prepare(list(levels)))
    except Exception:  # its guess of the grid need not fit its own tokens
        theirs = []
    if not any(f.axes == TOKENS for f in encoder.features):
        in_front = [x.permute(0, 3, 1, 2) for x in levels if x.dim() == 4]
        return (PermuteDims(new_order=[0, 3, 1, 2]),) if _alike(theirs, in_front) else ()
    reshape = ReshapeTokensToImage()
    ours = module_of(reshape, encoder.features)(levels, image_size=size)
    return (SelectIndices(indices=[-1]), reshape) if len(ours) > 1 and _alike(theirs, ours[-1:]) else (reshape,)


def _alike(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(some) == len(others) > 0 and all(map(torch.equal, some, others))
