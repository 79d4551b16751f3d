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

from composer.adapters.patches import patch_of
from composer.adapters.probing import Grids, GridsAt, strides_and_sizes
from composer.adapters.rates import RatesOnCPU
from composer.adapters.shapes import ShapesOnly
from composer.adapters.terratorch.networks import TerraTorchBackbone, created, module_of
from composer.adapters.terratorch.refusals import no_level, no_size, not_made
from composer.adapters.trial import check_small
from composer.contracts.rules import Refusal, Refused
from composer.feature import CHANNELS_LAST, MAP, TOKENS, Feature
from composer.modules.devices import on
from composer.modules.generators import OwnGenerator
from composer.parts import Channels, Facts, TerraTorch
from composer.parts.terratorch_names import CLAY
from composer.quiet import contained
from composer.sizes import Sizes

USUAL = 224
"""The side of an image where no option names one."""

USUAL_OF_CLAY = 256
"""The side of an image that Clay is made for, as TerraTorch's `img_size` says."""


def probe(part: TerraTorch, channels: Channels) -> Facts | Refusal:
    """The facts of a backbone that is fed `channels`: on the meta device, or on the CPU where that fails.

    TerraTorch states the channels of each level and nothing else, and those it miscounts; all is measured. Its means
    and deviations are of bands in their own units, which is not what facts tell.
    """
    try:
        found = _probe_on("meta", part, channels)
        if isinstance(found, Refusal) and found.code == "network":
            with OwnGenerator():
                found = _probe_on("cpu", part, channels)
    except Refused as refused:
        return refused.refusal
    return found


def _probe_on(device: str, part: TerraTorch, channels: Channels) -> Facts | Refusal:
    try:
        with on(device), RatesOnCPU():
            network = created(part, channels).to(device)
    except Refused:
        raise
    except Exception as error:  # whatever TerraTorch raises for its arguments
        return not_made(part, error)
    trial = _Trial(TerraTorchBackbone(network, None, module_of(part, network, channels).modality).eval(), channels,
                   part.frames, device, patch_of(network))  # fmt: skip
    usual = _usual(part)
    whole = _whole(usual, trial.patch)
    found = _strides_and_sizes(trial, whole)
    if whole != usual and (found is None or found[1].height is not None):
        found = _strides_and_sizes(trial, usual)
    if found is None or trial.layouts is None:
        return no_size(part, channels, trial.error)
    strides, sizes = found
    levels = [
        Feature(channels=c, stride=stride, axes=axes, prefix=prefix, frames=frames)
        for (axes, c, prefix, frames), stride in zip(trial.layouts, strides, strict=True)
    ]
    for position, index in enumerate(part.out_indices or ()):
        if not -len(levels) <= index < len(levels):
            return no_level(position, index, len(levels))
    features = levels if part.out_indices is None else [levels[index] for index in part.out_indices]
    told: dict[str, Any] = {"channels": channels} if isinstance(channels, int) else {"inputs": channels}
    return Facts(features=features, frames=part.frames, sizes=sizes, patch=trial.patch, **told)


def _strides_and_sizes(trial: _Trial, usual: tuple[int, int]) -> tuple[tuple[Fraction, ...], Sizes] | None:
    """Strides and sizes; for a network that takes no other shape, perhaps of any square."""
    grids = trial.grids_at(*usual)
    if grids is None:
        return None
    reductions = tuple(max(1, round(usual[0] / rows)) for rows, _ in grids)
    found = strides_and_sizes(trial.grids_at, usual, reductions)
    if found is None or found[1].height is None:
        return None if trial.unsteady else found
    squares = strides_and_sizes(_square(trial), usual, reductions)
    if trial.unsteady:
        return None
    if squares is None or squares[1].height is not None:
        return found
    return squares[0], evolve(squares[1], square=True)


def _square(trial: _Trial) -> GridsAt:
    """The trial at squares alone, told as if they were of the shape that is asked for."""

    def grids_at(height: int, width: int) -> Grids | None:
        side = max(height, width)
        grids = trial.grids_at(side, side)
        return (
            None
            if grids is None
            else tuple((rows * height // side, columns * width // side) for rows, columns in grids)
        )

    return grids_at


def _usual(part: TerraTorch) -> tuple[int, int]:
    size = dict(part.options).get("img_size") or (USUAL_OF_CLAY if part.name in CLAY else USUAL)
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _whole(size: tuple[int, int], patch: tuple[int, int] | None) -> tuple[int, int]:
    """A size of whole patches, which TerraTorch's usual one is not where the options name others."""
    if patch is None:
        return size
    rows, columns = (-(-side // along) * along for side, along in zip(size, patch, strict=True))
    return rows, columns


Layout = tuple[str, int, int, int]
"""The axes of a level, its channels, its prefix tokens and its frames."""


@define
class _Trial:
    """Runs a backbone at image sizes that it may not take, and keeps what it raised, and what its layouts are."""

    encoder: TerraTorchBackbone
    channels: Channels
    frames: int | None
    device: str
    patch: tuple[int, int] | None
    error: Exception | None = None
    layouts: tuple[Layout, ...] | None = None
    unsteady: bool = False

    def grids_at(self, height: int, width: int) -> Grids | None:
        """The grids of all levels for an image of (height, width), or None where the network does not take it."""
        self.error = None
        try:
            # TerraTorch warns of sizes that do not fit its patches; the model pads to those that do.
            with contained(), torch.no_grad(), ShapesOnly() if self.device == "meta" else nullcontext():
                given = self.encoder(self._images(height, width))
            found = [self._measured(x, height, width) for x in given]
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

    def _images(self, height: int, width: int) -> Tensor | Mapping[str, Tensor]:
        if isinstance(self.channels, int):
            return self._image(self.channels, height, width)
        return {name: self._image(count, height, width) for name, count in self.channels}

    def _image(self, channels: int, height: int, width: int) -> Tensor:
        frames = [] if self.frames is None else [self.frames]
        check_small(self.device, channels, *frames, height, width)
        # Not what was in memory, which may be no number: some draw at random by what they are fed.
        return torch.zeros(1, channels, *frames, height, width, device=self.device)

    def _measured(self, x: Any, height: int, width: int) -> tuple[Layout, tuple[int, int]]:
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
        frames = self._seen()
        return (TOKENS, x.shape[2], x.shape[1] - frames * prod(grid), frames), grid

    def _seen(self) -> int:
        """The frames that are left of those of an image, where patches reach over several."""
        embed = getattr(self.encoder.network, "patch_embed", None)
        deep = getattr(embed, "patch_size", (1, 1, 1))
        return (self.frames or 1) // (deep[0] if isinstance(deep, list | tuple) and len(deep) == 3 else 1)
