"""What the backbones of transformers give, found on the meta device: without weights, with a config at most."""

from __future__ import annotations

from contextlib import nullcontext
from math import prod
from typing import Any

import torch
from attrs import define
from torch import Tensor

from composer.adapters.patches import find_patch_size
from composer.adapters.probing import Grids, find_strides_and_sizes
from composer.adapters.shapes import ShapeInferenceMode
from composer.adapters.transformers.configs import build_config
from composer.adapters.transformers.networks import TransformersBackbone, create_transformers_backbone
from composer.adapters.transformers.refusals import reject_transformers_config, reject_transformers_sizes
from composer.adapters.trial import check_image_numbers
from composer.contracts.rules import Rejection, RejectionError
from composer.feature import MAP, TOKENS, Feature
from composer.modules.devices import use_default_device
from composer.modules.generators import SeededGenerator
from composer.parts import EncoderInfo, Transformers

TRANSFORMERS_DEFAULT_SIDE = 224
"""The side of an image where the config names none."""


def probe(part: Transformers, channels: int) -> EncoderInfo | Rejection:
    """The facts of a backbone that is fed `channels` channels: on the meta device, or on the CPU where that fails."""
    try:
        config = build_config(part, channels)
        found = _probe_transformers_on("meta", part, config, channels)
        if isinstance(found, Rejection) and found.kind == "raises":
            with SeededGenerator():
                found = _probe_transformers_on("cpu", part, config, channels)
    except RejectionError as refused:
        return refused.refusal
    return found


def _probe_transformers_on(device: str, part: Transformers, config: Any, channels: int) -> EncoderInfo | Rejection:
    try:
        with use_default_device(device):
            network = create_transformers_backbone(config)
    except RejectionError:
        raise
    except Exception as error:  # whatever transformers raises for a config, or a library that is not installed
        return reject_transformers_config(part, error)
    patch = find_patch_size(network)
    trial = _TransformersShapeProbe(TransformersBackbone(network).eval(), channels, device, patch)
    usual = _get_transformers_size(config)
    grids = trial.compute_grids(*usual)
    found = None
    if grids is not None:
        reductions = tuple(max(1, round(usual[0] / rows)) for rows, _ in grids)
        found = find_strides_and_sizes(trial.compute_grids, usual, reductions)
    if found is None or trial.layouts is None or any(prefix < 0 for _, _, prefix in trial.layouts):
        return reject_transformers_sizes(part, channels, trial.error)
    strides, sizes = found
    features = [
        Feature(channels=c, stride=stride, axes=axes, prefix=prefix)
        for (axes, c, prefix), stride in zip(trial.layouts, strides, strict=True)
    ]
    return EncoderInfo(features=features, channels=channels, sizes=sizes, patch=patch)


def _get_transformers_size(config: Any) -> tuple[int, int]:
    size = getattr(config, "image_size", None) or TRANSFORMERS_DEFAULT_SIDE
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


StageLayout = tuple[str, int, int]
"""The axes of a stage, its channels and its prefix tokens."""


@define
class _TransformersShapeProbe:
    """Runs a backbone at image sizes that it may not take, and keeps what it raised, and what its layouts are.

    Layouts and channels are read off what it gives: what backbones state of their channels is not always true.
    """

    encoder: TransformersBackbone
    channels: int
    device: str
    patch: tuple[int, int] | None
    error: Exception | None = None
    layouts: tuple[StageLayout, ...] | None = None

    def compute_grids(self, height: int, width: int) -> Grids | None:
        """The grids of all stages for an image of (height, width), or None where the network does not take it."""
        self.error = None
        try:
            check_image_numbers(self.device, self.channels, height, width)
            with torch.no_grad(), ShapeInferenceMode() if self.device == "meta" else nullcontext():
                given = self.encoder(torch.empty(1, self.channels, height, width, device=self.device))
        except Exception as error:  # whatever a network raises at a size that it does not take
            self.error = error
            return None
        grids = tuple(self._measure_grid(x, height, width) for x in given)
        layouts = tuple(_get_stage_layout(x, grid) for x, grid in zip(given, grids, strict=True))
        self.layouts = self.layouts or layouts
        return grids if layouts == self.layouts else None

    def _measure_grid(self, x: Tensor, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of a stage. Tokens tell their number alone: their grid is that of the patches."""
        if x.dim() == 4:
            return x.shape[2], x.shape[3]
        rows, columns = self.patch or (height, width)
        return height // rows, width // columns


def _get_stage_layout(x: Tensor, grid: tuple[int, int]) -> StageLayout:
    return (MAP, x.shape[1], 0) if x.dim() == 4 else (TOKENS, x.shape[2], x.shape[1] - prod(grid))
