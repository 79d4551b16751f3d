"""Backbones of TerraTorch as modules, and what they emit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial
from math import isfinite
from typing import Any

import torch
from attrs import evolve
from terratorch.models.backbones.clay_v1.embedder import Embedder, clay_v1_base
from terratorch.models.backbones.dofa_vit import DOFAEncoderWrapper
from terratorch.models.backbones.prithvi_mae import PrithviViT
from terratorch.models.backbones.prithvi_swin import prithvi_swin_B, prithvi_swin_L
from terratorch.models.backbones.scalemae import VisionTransformer as ScaleMAE
from terratorch.models.backbones.scalemae import create_model
from terratorch.models.backbones.torchgeo_resnet import ResNetEncoderWrapper
from terratorch.models.backbones.torchgeo_swin_satlas import SwinEncoderWrapper
from terratorch.models.backbones.torchgeo_vit import ViTEncoderWrapper
from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY
from torch import Tensor, nn

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
from composer.adapters.terratorch.arguments import (
    build_image_arguments,
    check_options,
    reject_terratorch_arguments,
    reject_terratorch_sizes,
)
from composer.adapters.terratorch.parts import CLAY, SCALE_MAE, UNREGISTERED, TerraTorch
from composer.modules.base import use_default_device
from composer.modules.encoders import TransparentWrapper
from composer.parts import EncoderInfo
from composer.parts.base import Channels
from composer.parts.registry import guard_import
from composer.parts.rules import Rejection, RejectionError
from composer.parts.validators import MAX_LEVELS, to_keyword_arguments
from composer.resources import limit_modules
from composer.sizes import SizeConstraint

TORCHGEO_WRAPPERS = (DOFAEncoderWrapper, ResNetEncoderWrapper, SwinEncoderWrapper, ViTEncoderWrapper)
"""TerraTorch's wrappers of torchgeo's networks. They keep the origin of their weights, and the levels requested."""

_TIMM_FACTORIES = {factory.__name__: factory for factory in (clay_v1_base, prithvi_swin_B, prithvi_swin_L)}


def create_terratorch_backbone(part: TerraTorch, channels: Channels, **more: Any) -> Any:
    """Create the network with random weights; with all its levels, where the part picks among them.

    Raises RejectionError for arguments that TerraTorch would ignore or misread, or that make the network too deep, and
    whatever TerraTorch raises for others.
    """
    check_options(part)
    with guard_import(), limit_modules():
        arguments = {**build_image_arguments(part, channels), **to_keyword_arguments(part.options), **more}
        if part.name in UNREGISTERED:
            network = _create_unregistered(part, arguments)
        else:
            network = TERRATORCH_BACKBONE_REGISTRY.build(part.name, **arguments)
    # Prithvi and Clay have a forward bound to this instance, which a copy would go on to run.
    network.__dict__.pop("forward", None)
    if isinstance(network, TORCHGEO_WRAPPERS):
        # It cannot be pickled, and nothing reads it again.
        network.weights = None
        if part.out_indices is not None:
            network.out_indices = list(range(MAX_LEVELS))
    if isinstance(getattr(network, "missing_mod_token", None), nn.Parameter):
        # TerraTorch leaves it uninitialised; it replaces an image that is absent, and here all are present.
        network.missing_mod_token.data.zero_()
    return network


def _create_unregistered(part: TerraTorch, arguments: Mapping[str, Any]) -> Any:
    if part.name not in SCALE_MAE:
        network = _TIMM_FACTORIES[part.name](features_only=True, **arguments)
        # A function of TerraTorch's own factories, which cannot be pickled.
        network.__dict__.pop("prepare_features_for_image_model", None)
        return network
    network = create_model(part.name.removeprefix("scalemae_"), **arguments)
    if part.out_indices is not None:
        network.out_indices = list(range(len(network.blocks)))
    return network


def wrap_backbone(part: TerraTorch, network: Any, channels: Channels) -> TerraTorchBackbone:
    """Return a network as a module that emits the levels of `out_indices`."""
    return TerraTorchBackbone(network, part.out_indices, find_single_modality(part, channels))


def find_single_modality(part: TerraTorch, channels: Channels) -> str | None:
    """Return the modality of the only image of a network that takes images by modality; None of any other network."""
    return part.modalities[0] if part.modalities and isinstance(channels, int) else None


class TerraTorchBackbone(TransparentWrapper):
    """A backbone of TerraTorch. Its weights have TerraTorch's own names.

    `extras` are the keyword arguments that it takes beside its images: the times and places of a Prithvi that was
    trained with those, or of Clay, and the ground size of a pixel of Clay and ScaleMAE. It emits the levels `indices`
    (None: all).
    """

    def __init__(self, network: Any, indices: Sequence[int] | None, modality: str | None = None) -> None:
        super().__init__(network)
        self.indices = None if indices is None else tuple(indices)
        self.modality = modality
        self.extras = _list_extra_inputs(network)
        self._run: Any = next((run for kind, run in _FORWARDS.items() if isinstance(network, kind)), None)

    def forward(self, image: Tensor | Mapping[str, Tensor], **extras: Any) -> tuple[Tensor, ...]:
        """Return the levels for an image `(b, c, h, w)`, or `(b, c, t, h, w)`, or for several images by modality.

        Raises ValueError for extras of another shape or of other numbers than the network takes.
        """
        if self._run is not None:
            output = self._run(self.network, image, extras)
        else:
            output = self.network(image if self.modality is None else {self.modality: image})
        levels = (output,) if isinstance(output, Tensor) else tuple(output)
        return levels if self.indices is None else tuple(levels[index] for index in self.indices)


def _list_extra_inputs(network: Any) -> frozenset[str]:
    """Return the keyword arguments of a network. A Prithvi without layers for times or places would ignore them."""
    if isinstance(network, PrithviViT):
        has = {"temporal_coords": network.temporal_encoding, "location_coords": network.location_encoding}
        return frozenset(name for name, used in has.items() if used)
    if isinstance(network, Embedder):
        # Its wavelengths are those of its bands.
        return frozenset({"time", "latlon", "gsd"})
    return frozenset({"input_res"}) if isinstance(network, ScaleMAE) else frozenset()


CoordinateShapes = Mapping[str, tuple[tuple[int, ...], str]]
"""By the name of an argument, the shape that it must have, and its meaning."""

COORDINATE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""The types of coordinates that TerraTorch's encoding of them accepts."""


def _forward_prithvi(network: Any, image: Tensor, extras: Mapping[str, Any]) -> Any:
    batch = image.shape[0]
    shapes = {
        "temporal_coords": ((batch, network.num_frames, 2), "the year and the day of each frame of each image"),
        "location_coords": ((batch, 2), "the latitude and the longitude of each image"),
    }
    _check_coordinates(extras, image, shapes)
    # The network's own forward is that of the masked autoencoder.
    return network.forward_features(image, **extras)


def _forward_clay(network: Any, image: Tensor, extras: Mapping[str, Any]) -> Any:
    batch = image.shape[0]
    size = extras.get("gsd")
    if size is not None and not (isinstance(size, int | float) and size > 0 and isfinite(size)):
        raise ValueError(f"gsd must be a number above 0, the metres of a pixel of all images (got {size!r})")
    shapes = {
        "time": ((batch, 4), "the week and the hour of each image, as sines and cosines"),
        "latlon": ((batch, 4), "the latitude and the longitude of each image, as sines and cosines"),
    }
    _check_coordinates({name: value for name, value in extras.items() if name != "gsd"}, image, shapes)
    return network.forward_features(image, **extras)


def _forward_scale_mae(network: Any, image: Tensor, extras: Mapping[str, Any]) -> Any:
    _check_coordinates(extras, image, {"input_res": ((image.shape[0],), "the metres of a pixel of each image")})
    size = extras.get("input_res")
    # It multiplies them with positions in single precision, and takes no others.
    return network(image, None if size is None else size.float())


_FORWARDS = {PrithviViT: _forward_prithvi, Embedder: _forward_clay, ScaleMAE: _forward_scale_mae}


def _check_coordinates(values: Mapping[str, Any], image: Tensor, shapes: CoordinateShapes) -> None:
    """Raise ValueError for values, None aside, of another shape or of a wider type than the image.

    TerraTorch would broadcast a shape that is nearly right over images, frames or patches.
    """
    for name, value in values.items():
        if value is None:
            continue
        shape, meaning = shapes[name]
        if not isinstance(value, Tensor) or value.dim() != len(shape) or tuple(value.shape) != shape:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name} must be a tensor of shape {shape}, {meaning} (got {got})")
        _check_coordinate_numbers(name, value, image)


def _check_coordinate_numbers(name: str, value: Tensor, image: Tensor) -> None:
    if value.dtype not in COORDINATE_DTYPES:
        *names, last = map(str, COORDINATE_DTYPES)
        raise ValueError(f"{name} must be of {', '.join(names)} or {last} (got {value.dtype})")
    # Wider values would widen the tokens too, which the weights then do not fit.
    wider = torch.promote_types(value.dtype, image.dtype) != image.dtype
    if wider and not torch.is_autocast_enabled(image.device.type):
        raise ValueError(f"{name} must be no wider than the image, of {image.dtype} (got {value.dtype})")
    if not torch.compiler.is_compiling() and not _is_finite(value):
        index = tuple(int(axis) for axis in (~value.isfinite()).nonzero()[0])
        raise ValueError(f"{name} must hold finite numbers (got {float(value[index])} at {list(index)})")


def _is_finite(value: Tensor) -> bool:
    try:
        return bool(value.isfinite().all())
    except RuntimeError:  # a tensor without values: on the meta device, or while something is traced
        return True


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
