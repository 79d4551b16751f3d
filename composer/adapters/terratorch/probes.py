"""What the backbones of TerraTorch give, found on the meta device, without weights and without a download."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from fractions import Fraction
from math import prod
from typing import Any

import torch
from attrs import define, evolve
from torch import Tensor

from composer.adapters.probing import (
    CPULinspace,
    GridFunction,
    Grids,
    ShapeInferenceMode,
    check_image_numbers,
    find_patch_size,
    find_strides_and_sizes,
)
from composer.adapters.terratorch.networks import TerraTorchBackbone, create_terratorch_backbone, wrap_backbone
from composer.adapters.terratorch.parts import CLAY, TerraTorch
from composer.adapters.terratorch.rejections import (
    reject_level_index,
    reject_terratorch_arguments,
    reject_terratorch_sizes,
)
from composer.isolation import guard_import
from composer.layouts import CHANNELS_LAST, MAP, TOKENS, Feature
from composer.modules.base import SeededGenerator, use_default_device
from composer.parts import Channels, EncoderInfo
from composer.parts.rules import Rejection, RejectionError
from composer.sizes import SizeConstraint

TERRATORCH_DEFAULT_SIDE = 224
"""The side of an image where no option names one."""


CLAY_DEFAULT_SIDE = 256
"""The side of an image that Clay is made for, as TerraTorch's `img_size` says."""


def probe(part: TerraTorch, channels: Channels) -> EncoderInfo | Rejection:
    """The facts of a backbone that is fed `channels`: on the meta device, or on the CPU where that fails.

    TerraTorch states the channels of each level and nothing else, and those it miscounts; all is measured. Its means
    and deviations are of bands in their own units, which is not what facts tell.
    """
    try:
        found = _probe_terratorch_on("meta", part, channels)
        if isinstance(found, Rejection) and found.code == "network":
            with SeededGenerator():
                found = _probe_terratorch_on("cpu", part, channels)
    except RejectionError as refused:
        return refused.refusal
    return found


def _probe_terratorch_on(device: str, part: TerraTorch, channels: Channels) -> EncoderInfo | Rejection:
    try:
        with use_default_device(device), CPULinspace():
            network = create_terratorch_backbone(part, channels).to(device)
    except RejectionError:
        raise
    except Exception as error:  # whatever TerraTorch raises for its arguments
        return reject_terratorch_arguments(part, error)
    trial = _TerraTorchShapeProbe(TerraTorchBackbone(network, None, wrap_backbone(part, network, channels).modality).eval(), channels,
                   part.frames, device, find_patch_size(network))  # fmt: skip
    usual = _get_terratorch_size(part)
    whole = _align_to_patches(usual, trial.patch)
    found = _find_steady_strides(trial, whole)
    if whole != usual and (found is None or found[1].height is not None):
        found = _find_steady_strides(trial, usual)
    if found is None or trial.layouts is None:
        return reject_terratorch_sizes(part, channels, trial.error)
    strides, sizes = found
    levels = [
        Feature(channels=c, stride=stride, axes=axes, prefix=prefix, frames=frames)
        for (axes, c, prefix, frames), stride in zip(trial.layouts, strides, strict=True)
    ]
    for position, index in enumerate(part.out_indices or ()):
        if not -len(levels) <= index < len(levels):
            return reject_level_index(position, index, len(levels))
    features = levels if part.out_indices is None else [levels[index] for index in part.out_indices]
    told: dict[str, Any] = {"channels": channels} if isinstance(channels, int) else {"inputs": channels}
    return EncoderInfo(features=features, frames=part.frames, sizes=sizes, patch=trial.patch, **told)


def _find_steady_strides(
    trial: _TerraTorchShapeProbe, usual: tuple[int, int]
) -> tuple[tuple[Fraction, ...], SizeConstraint] | None:
    """Strides and sizes; for a network that takes no other shape, perhaps of any square."""
    grids = trial.compute_grids(*usual)
    if grids is None:
        return None
    reductions = tuple(max(1, round(usual[0] / rows)) for rows, _ in grids)
    found = find_strides_and_sizes(trial.compute_grids, usual, reductions)
    if found is None or found[1].height is None:
        return None if trial.unsteady else found
    squares = find_strides_and_sizes(_limit_to_squares(trial), usual, reductions)
    if trial.unsteady:
        return None
    if squares is None or squares[1].height is not None:
        return found
    return squares[0], evolve(squares[1], square=True)


def _limit_to_squares(trial: _TerraTorchShapeProbe) -> GridFunction:
    """The trial at squares alone, told as if they were of the shape that is asked for."""

    def compute_square_grids(height: int, width: int) -> Grids | None:
        side = max(height, width)
        grids = trial.compute_grids(side, side)
        return (
            None
            if grids is None
            else tuple((rows * height // side, columns * width // side) for rows, columns in grids)
        )

    return compute_square_grids


def _get_terratorch_size(part: TerraTorch) -> tuple[int, int]:
    size = dict(part.options).get("img_size") or (CLAY_DEFAULT_SIDE if part.name in CLAY else TERRATORCH_DEFAULT_SIDE)
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _align_to_patches(size: tuple[int, int], patch: tuple[int, int] | None) -> tuple[int, int]:
    """A size of whole patches, which TerraTorch's usual one is not where the options name others."""
    if patch is None:
        return size
    rows, columns = (-(-side // along) * along for side, along in zip(size, patch, strict=True))
    return rows, columns


LevelLayout = tuple[str, int, int, int]
"""The axes of a level, its channels, its prefix tokens and its frames."""


@define
class _TerraTorchShapeProbe:
    """Runs a backbone at image sizes that it may not take, and keeps what it raised, and what its layouts are."""

    encoder: TerraTorchBackbone
    channels: Channels
    frames: int | None
    device: str
    patch: tuple[int, int] | None
    error: Exception | None = None
    layouts: tuple[LevelLayout, ...] | None = None
    unsteady: bool = False

    def compute_grids(self, height: int, width: int) -> Grids | None:
        """The grids of all levels for an image of (height, width), or None where the network does not take it."""
        self.error = None
        try:
            # TerraTorch warns of sizes that do not fit its patches; the model pads to those that do.
            with guard_import(), torch.no_grad(), ShapeInferenceMode() if self.device == "meta" else nullcontext():
                given = self.encoder(self._make_images(height, width))
            found = [self._measure_level(x, height, width) for x in given]
        except Exception as error:  # whatever a network raises at a size that it does not take
            self.error = error
            return None
        layouts = tuple(layout for layout, _ in found)
        if any(prefix < 0 for _, _, prefix, _ in layouts):
            return None
        self.layouts = self.layouts or layouts
        # More tokens than cells, and the more the larger the image: those are no prefix, but cells of something else.
        self.unsteady = self.unsteady or layouts != self.layouts
        return tuple(grid for _, grid in found) if layouts == self.layouts else None

    def _make_images(self, height: int, width: int) -> Tensor | Mapping[str, Tensor]:
        if isinstance(self.channels, int):
            return self._make_image(self.channels, height, width)
        return {name: self._make_image(count, height, width) for name, count in self.channels}

    def _make_image(self, channels: int, height: int, width: int) -> Tensor:
        frames = [] if self.frames is None else [self.frames]
        check_image_numbers(self.device, channels, *frames, height, width)
        # Not what was in memory, which may be no number: some draw at random by what they are fed.
        return torch.zeros(1, channels, *frames, height, width, device=self.device)

    def _measure_level(self, x: Any, height: int, width: int) -> tuple[LevelLayout, tuple[int, int]]:
        """What a level is. Tokens tell their number alone: their grid is that of the patches, frame by frame."""
        if not isinstance(x, Tensor) or x.dim() not in (3, 4):
            raise TypeError(f"it gives {f'a tensor of {x.dim()} axes' if isinstance(x, Tensor) else type(x).__name__}")
        if x.dim() == 4:
            _, one, two, three = x.shape
            if height * three == width * two:
                return (MAP, one, 0, 1), (two, three)
            return (CHANNELS_LAST, three, 0, 1), (one, two)
        rows, columns = self.patch or (height, width)
        grid = height // rows, width // columns
        frames = self._count_frames()
        return (TOKENS, x.shape[2], x.shape[1] - frames * prod(grid), frames), grid

    def _count_frames(self) -> int:
        """The frames that are left of those of an image, where patches reach over several."""
        embed = getattr(self.encoder.network, "patch_embed", None)
        deep = getattr(embed, "patch_size", (1, 1, 1))
        return (self.frames or 1) // (deep[0] if isinstance(deep, list | tuple) and len(deep) == 3 else 1)
