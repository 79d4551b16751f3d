"""Probe a module for what it emits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, cast

import torch
from attrs import define, evolve, frozen
from torch import Tensor, nn

from composer.adapters.probing import GridFunction, Grids, find_patch_size, find_strides_and_sizes
from composer.adapters.rounding import RoundingMismatch, infer_offsets, infer_rounding
from composer.layouts import CHANNELS_LAST, MAP, TOKENS, Feature, Features
from composer.modules import module as module_of
from composer.modules.base import SeededGenerator
from composer.modules.encoders import use_eval_mode
from composer.parts import Custom, Neck, PermuteDims, ReshapeTokensToImage, SelectIndices
from composer.sizes import SizeConstraint

DEFAULT_SIDE = 224
"""Where a module says nothing of the images that it takes, this is tried."""


EXTRA_PIXELS = 192
"""Pixels more, which are a whole number of cells of each stride that networks have."""


@frozen
class ProbedModule:
    """What was seen: the module as a declared encoder, and the necks that do what its own hook does."""

    encoder: Custom
    fallback: tuple[Neck, ...] = ()


def probe_module(network: nn.Module, frames: int | None, channels: int | None = None) -> ProbedModule | str:
    """What a network gives, or why that cannot be told. `frames` is given where it is to run on each frame alone.

    `channels` is how many it takes, where that is stated; else what its layers seem to take is tried. It is run in
    eval mode, without gradients, over zeros of the size that it seems to take; its weights, its mode and torch's
    random state are left as they were.
    """
    reasons = ["it says neither how many channels nor what size it takes"]
    for count, together, size in _iter_candidate_inputs(network, frames, channels):
        run = _ModuleRunner(network, count, together)
        maps = run.features(*size)
        if maps is None:
            reasons.append(f"it raised {run.error}")
            continue
        found = _describe_encoder(run, maps, size)
        if not isinstance(found, str):
            return ProbedModule(found, _find_hook_necks(network, found, maps, size))
        reasons.append(found)
    return reasons[min(1, len(reasons) - 1)]


def _iter_candidate_inputs(
    network: nn.Module, frames: int | None, told: int | None
) -> Iterator[tuple[int, int | None, tuple[int, int]]]:
    """Channels, frames and size that a network might take, the likeliest first."""
    size = _find_image_size(network)
    stated = next((n for child in network.modules() if (n := getattr(child, "num_frames", None))), None)
    channels = dict.fromkeys([told] if told else [*_iter_stated_channels(network), *_iter_stem_channels(network), 3])
    for count in channels:
        yield count, None, size
        if frames is None and isinstance(stated, int):
            yield count, stated, size


def _iter_stated_channels(network: nn.Module) -> Iterator[int]:
    for child in network.modules():
        for name in ("in_chans", "in_channels"):
            if type(count := getattr(child, name, None)) is int:
                yield count
                return


def _iter_stem_channels(network: nn.Module) -> Iterator[int]:
    """What the first layers take: a convolution, or a linear layer over all the pixels of a patch."""
    patch = find_patch_size(network)
    for child in network.modules():
        if isinstance(child, nn.Conv2d | nn.Conv3d):
            yield child.in_channels
            return
        if isinstance(child, nn.Linear) and patch is not None:
            count, rest = divmod(child.in_features, patch[0] * patch[1])
            if count and not rest:
                yield count
                return


def _find_image_size(network: nn.Module) -> tuple[int, int]:
    for child in network.modules():
        size = getattr(child, "img_size", None)
        if type(size) is int:
            return size, size
        if isinstance(size, list | tuple) and len(size) >= 2 and all(type(side) is int for side in size):
            return size[-2], size[-1]
    return DEFAULT_SIDE, DEFAULT_SIDE


@define
class _ModuleRunner:
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
            with torch.no_grad(), SeededGenerator(), use_eval_mode(self.network):
                out = self.network(image)
        except Exception as error:  # whatever a network raises for an image that it does not take
            self.error = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
            return None
        levels = [out] if isinstance(out, Tensor) else out
        if not isinstance(levels, list | tuple) or not levels or not all(isinstance(x, Tensor) for x in levels):
            self.error = f"nothing, but gave {type(out).__name__} in place of a list of tensors"
            return None
        return levels


def _describe_encoder(run: _ModuleRunner, levels: Sequence[Tensor], size: tuple[int, int]) -> Custom | str:
    patch = find_patch_size(run.network)
    stated: list[int] = list(cast(Any, run.network).out_channels)
    layouts = [_detect_layout(x, stated[i] if i < len(stated) else None, patch, size) for i, x in enumerate(levels)]
    kinds = [layout for layout in layouts if layout is not None]
    if len(kinds) < len(levels):
        return f"gave tensors that are neither maps nor tokens: {[tuple(x.shape) for x in levels]}"

    def compute_grids(height: int, width: int) -> Grids | None:
        tried = run.features(height, width)
        if tried is None or len(tried) != len(levels):
            return None
        grids = [layout.grid(x, height, width) for layout, x in zip(kinds, tried, strict=True)]
        whole = tuple(grid for grid in grids if grid is not None)
        return whole if len(whole) == len(grids) else None

    grids = compute_grids(*size)
    assert grids is not None
    found = find_strides_and_sizes(compute_grids, size, tuple(max(round(size[0] / rows), 1) for rows, _ in grids))
    if found is None:
        return "its cells are not square"
    strides, sizes = found
    features = tuple(layout.feature(stride) for layout, stride in zip(kinds, strides, strict=True))
    if patch is None and sizes.height is None:
        # TerraTorch pads for patches alone, so that the rest is fed images of any size.
        found_out = infer_rounding(compute_grids, features, sizes, 2 * max(sizes.multiple, sizes.least))
        features, sizes = (features, sizes) if isinstance(found_out, RoundingMismatch) else found_out
    elif patch is None:
        features, sizes = _find_border_offsets(compute_grids, features, size) or (features, sizes)
    return Custom(run.network, features=features, channels=run.channels, sizes=sizes, frames=run.frames)


def _find_border_offsets(
    grids_at: GridFunction, features: Features, size: tuple[int, int]
) -> tuple[Features, SizeConstraint] | None:
    """The levels of a network that was found to take one size, where they are whole at none because of their borders.

    What it has more of in a larger image tells its strides, whatever it loses at the borders.
    """
    here, further = grids_at(*size), grids_at(*(side + EXTRA_PIXELS for side in size))
    if here is None or further is None or any(one[0] >= other[0] for one, other in zip(here, further, strict=True)):
        return None
    more = [other[0] - one[0] for one, other in zip(here, further, strict=True)]
    strided = tuple(evolve(f, stride=Fraction(EXTRA_PIXELS, cells)) for f, cells in zip(features, more, strict=True))
    return infer_offsets(grids_at, strided, max(size))


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


def _detect_layout(
    x: Tensor, stated: int | None, patch: tuple[int, int] | None, size: tuple[int, int]
) -> _Layout | None:
    if x.dim() == 4:
        # The channels that the backbone states tell a channels-last map; in doubt it is the usual layout.
        last = x.shape[1] != stated and x.shape[3] == stated
        return _Layout(CHANNELS_LAST, x.shape[3]) if last else _Layout(MAP, x.shape[1])
    if x.dim() != 3 or patch is None:
        return None
    cells = (size[0] // patch[0]) * (size[1] // patch[1])
    return _Layout(TOKENS, x.shape[2], patch, prefix=x.shape[1] % cells, frames=max(x.shape[1] // cells, 1))


def _find_hook_necks(
    network: Any, encoder: Custom, levels: Sequence[Tensor], size: tuple[int, int]
) -> tuple[Neck, ...]:
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
        return (PermuteDims(new_order=[0, 3, 1, 2]),) if _are_equal(theirs, in_front) else ()
    reshape = ReshapeTokensToImage()
    ours = module_of(reshape, encoder.features)(levels, image_size=size)
    return (SelectIndices(indices=[-1]), reshape) if len(ours) > 1 and _are_equal(theirs, ours[-1:]) else (reshape,)


def _are_equal(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(some) == len(others) > 0 and all(map(torch.equal, some, others))
