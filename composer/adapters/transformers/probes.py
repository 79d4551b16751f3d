"""What the backbones of transformers give, found on the meta device: without weights, with a config at most."""

from __future__ import annotations

from contextlib import nullcontext
from math import prod
from typing import Any

import torch
from attrs import define
from torch import Tensor

from composer.adapters.patches import patch_of
from composer.adapters.probing import Grids, strides_and_sizes
from composer.adapters.shapes import ShapesOnly
from composer.adapters.transformers.configs import config_of
from composer.adapters.transformers.networks import TransformersBackbone, created
from composer.adapters.transformers.refusals import no_size, not_made
from composer.adapters.trial import check_small
from composer.contracts.rules import Refusal, Refused
from composer.feature import MAP, TOKENS, Feature
from composer.modules.devices import on
from composer.modules.generators import OwnGenerator
from composer.parts import Facts, Transformers

USUAL = 224
"""The side of an image where the config names none."""


def probe(part: Transformers, channels: int) -> Facts | Refusal:
    """The facts of a backbone that is fed `channels` channels: on the meta device, or on the CPU where that fails."""
    try:
        config = config_of(part, channels)
        found = _probe_on("meta", part, config, channels)
        if isinstance(found, Refusal) and found.kind == "impossible":
            with OwnGenerator():
                found = _probe_on("cpu", part, config, channels)
    except Refused as refused:
        return refused.refusal
    return found


def _probe_on(device: str, part: Transformers, config: Any, channels: int) -> Facts | Refusal:
    try:
        with on(device):
            network = created(config)
    except Refused:
        raise
    except Exception as error:  # whatever transformers raises for a config, or a library that is not installed
        return not_made(part, error)
    patch = patch_of(network)
    trial = _Trial(TransformersBackbone(network).eval(), channels, device, patch)
    usual = _usual(config)
    grids = trial.grids_at(*usual)
    found = None
    if grids is not None:
        reductions = tuple(max(1, round(usual[0] / rows)) for rows, _ in grids)
        found = strides_and_sizes(trial.grids_at, usual, reductions)
    if found is None or trial.layouts is None or any(prefix < 0 for _, _, prefix in trial.layouts):
        return no_size(part, channels, trial.error)
    strides, sizes = found
    features = [
        Feature(channels=c, stride=stride, axes=axes, prefix=prefix)
        for (axes, c, prefix), stride in zip(trial.layouts, strides, strict=True)
    ]
    return Facts(features=features, channels=channels, sizes=sizes, patch=patch)


def _usual(config: Any) -> tuple[int, int]:
    size = getattr(config, "image_size", None) or USUAL
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


Layout = tuple[str, int, int]
"""The axes of a stage, its channels and its prefix tokens."""


@define
class _Trial:
    """Runs a backbone at image sizes that it may not take, and keeps what it raised, and what its layouts are.

    Layouts and channels are read off what it gives: what backbones state of their channels is not always true.
    """

    encoder: TransformersBackbone
    channels: int
    device: str
    patch: tuple[int, int] | None
    error: Exception | None = None
    layouts: tuple[Layout, ...] | None = None

    def grids_at(self, height: int, width: int) -> Grids | None:
        """The grids of all stages for an image of (height, width), or None where the network does not take it."""
        self.error = None
        try:
            check_small(self.device, self.channels, height, width)
            with torch.no_grad(), ShapesOnly() if self.device == "meta" else nullcontext():
                given = self.encoder(torch.empty(1, self.channels, height, width, device=self.device))
        except Exception as error:  # whatever a network raises at a size that it does not take
            self.error = error
            return None
        grids = tuple(self._grid(x, height, width) for x in given)
        layouts = tuple(_layout(x, grid) for x, grid in zip(given, grids, strict=True))
        self.layouts = self.layouts or layouts
        return grids if layouts == self.layouts else None

    def _grid(self, x: Tensor, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of a stage. Tokens tell their number alone: their grid is that of the patches."""
        if x.dim() == 4:
            return x.shape[2], x.shape[3]
        rows, columns = self.patch or (height, width)
        return height // rows, width // columns


def _layout(x: Tensor, grid: tuple[int, int]) -> Layout:
    return (MAP, x.shape[1], 0) if x.dim() == 4 else (TOKENS, x.shape[2], x.shape[1] - prod(grid))
