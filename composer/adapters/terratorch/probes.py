"""Probe TerraTorch's backbones for their features on the meta device, without weights and without a download."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import partial
from typing import Any

from attrs import evolve
from torch import Tensor

from composer.adapters.probing import (
    CPULinspace,
    GridFunction,
    Grids,
    ShapeProbe,
    find_patch_size,
    find_strides_and_sizes,
    probe_on_devices,
)
from composer.adapters.rejections import pick_indices
from composer.adapters.terratorch.arguments import reject_terratorch_arguments, reject_terratorch_sizes
from composer.adapters.terratorch.networks import TerraTorchBackbone, create_terratorch_backbone, find_single_modality
from composer.adapters.terratorch.parts import CLAY, TerraTorch
from composer.isolation import guard_import
from composer.modules.base import use_default_device
from composer.parts import Channels, EncoderInfo
from composer.parts.rules import Rejection, RejectionError
from composer.sizes import SizeConstraint

TERRATORCH_DEFAULT_SIDE = 224
"""The side of an image where no option names one."""

CLAY_DEFAULT_SIDE = 256
"""The side of an image that Clay is made for: its `img_size` in TerraTorch."""


def probe(part: TerraTorch, channels: Channels) -> EncoderInfo | Rejection:
    """Return the info of a backbone that is fed `channels`: from the meta device, or from the CPU where that fails.

    TerraTorch states only the channels of each level, and not always the right ones, so all is measured. Its means
    and deviations are those of bands in their own units, while an EncoderInfo has them for 0..1.
    """
    return probe_on_devices(partial(_probe_terratorch_on, part, channels))


def _probe_terratorch_on(part: TerraTorch, channels: Channels, device: str) -> EncoderInfo | Rejection:
    try:
        with use_default_device(device), CPULinspace():
            network = create_terratorch_backbone(part, channels).to(device)
    except RejectionError:
        raise
    except Exception as error:  # whatever TerraTorch raises for its arguments
        return reject_terratorch_arguments(part, error)
    encoder = TerraTorchBackbone(network, None, find_single_modality(part, channels)).eval()

    def run_silently(image: Tensor | Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        # TerraTorch warns of sizes that do not fit its patches; the model pads to those that do.
        with guard_import():
            levels: tuple[Tensor, ...] = encoder(image)
        return levels

    patch = find_patch_size(network)
    trial = ShapeProbe(
        run_silently, channels, device, patch=patch, frames=part.frames, token_frames=_count_token_frames(part, network)
    )
    usual = _get_terratorch_size(part)
    whole = _align_to_patches(usual, patch)
    found = _find_steady_strides(trial, whole)
    if whole != usual and (found is None or found[1].height is not None):
        found = _find_steady_strides(trial, usual)
    if found is None:
        return reject_terratorch_sizes(part, channels, trial.error)
    strides, sizes = found
    features = trial.build_features(strides)
    if part.out_indices is not None:
        indices = pick_indices(part.out_indices, len(features))
        if isinstance(indices, Rejection):
            raise RejectionError(indices)
        features = tuple(features[index] for index in indices)
    images: dict[str, Any] = {"channels": channels} if isinstance(channels, int) else {"inputs": channels}
    return EncoderInfo(features=features, frames=part.frames, sizes=sizes, patch=patch, **images)


def _find_steady_strides(
    trial: ShapeProbe, usual: tuple[int, int]
) -> tuple[tuple[Fraction, ...], SizeConstraint] | None:
    """Return strides and sizes; for a network that takes no other shape, perhaps any square.

    None where the layouts differ between sizes: more tokens than cells, whose number grows with the image, are not a
    prefix, but cells of something else.
    """
    found = find_strides_and_sizes(trial.compute_grids, usual)
    if found is not None and found[1].height is not None:
        squares = find_strides_and_sizes(_limit_to_squares(trial), usual)
        if squares is not None and squares[1].height is None:
            found = squares[0], evolve(squares[1], square=True)
    return found if trial.steady else None


def _limit_to_squares(trial: ShapeProbe) -> GridFunction:
    """Return a function that runs the trial at squares only, and scales the grids to the shape requested."""

    def compute_square_grids(height: int, width: int) -> Grids | None:
        side = max(height, width)
        grids = trial.compute_grids(side, side)
        if grids is None:
            return None
        return tuple((rows * height // side, columns * width // side) for rows, columns in grids)

    return compute_square_grids


def _get_terratorch_size(part: TerraTorch) -> tuple[int, int]:
    size = dict(part.options).get("img_size") or (CLAY_DEFAULT_SIDE if part.name in CLAY else TERRATORCH_DEFAULT_SIDE)
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _align_to_patches(size: tuple[int, int], patch: tuple[int, int] | None) -> tuple[int, int]:
    """Return a size of whole patches; TerraTorch's default may not be, where the options name other patches."""
    if patch is None:
        return size
    rows, columns = (-(-side // along) * along for side, along in zip(size, patch, strict=True))
    return rows, columns


def _count_token_frames(part: TerraTorch, network: Any) -> int:
    """Return the frames of a token level: fewer than those of the image where a patch covers several."""
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    covered = patch[0] if isinstance(patch, list | tuple) and len(patch) == 3 else 1
    return (part.frames or 1) // covered
