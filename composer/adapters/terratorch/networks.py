"""Create backbones of TerraTorch as modules."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import torch
from terratorch.models.backbones.clay_v1.embedder import Embedder, clay_v1_base
from terratorch.models.backbones.clay_v1.modules import WAVELENGTHS
from terratorch.models.backbones.dofa_vit import DOFAEncoderWrapper, waves_list
from terratorch.models.backbones.prithvi_mae import PrithviViT
from terratorch.models.backbones.prithvi_swin import prithvi_swin_B, prithvi_swin_L
from terratorch.models.backbones.scalemae import VisionTransformer as ScaleMAE
from terratorch.models.backbones.scalemae import create_model
from terratorch.models.backbones.swin_encoder_decoder import MMSegSwinTransformer
from terratorch.models.backbones.terramind.tokenizer.vqvae import VQ
from terratorch.models.backbones.torchgeo_resnet import ResNetEncoderWrapper
from terratorch.models.backbones.torchgeo_swin_satlas import SwinEncoderWrapper
from terratorch.models.backbones.torchgeo_vit import ViTEncoderWrapper
from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY
from torch import Tensor, nn

from composer.adapters.terratorch.parts import CLAY, MODALITIES, SCALE_MAE, SWIN, UNREGISTERED, TerraTorch
from composer.adapters.terratorch.rejections import (
    reject_ambiguous_bands,
    reject_band_count,
    reject_bands_modality,
    reject_frame_count,
    reject_missing_bands,
    reject_modality_channels,
    reject_modality_names,
    reject_nonsquare_positions,
    reject_swapped_modalities,
    reject_terratorch_option,
    reject_unknown_band,
    reject_unknown_modality,
    reject_unnamed_image,
)
from composer.isolation import guard_import
from composer.modules.encoders import TransparentWrapper
from composer.parts import Channels
from composer.parts.rules import RejectionError
from composer.parts.validators import MAX_LEVELS, to_keyword_arguments
from composer.resources import limit_modules

COORDINATE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What TerraTorch takes for coordinates: its encoding of them asserts as much."""


CoordinateShapes = Mapping[str, tuple[tuple[int, ...], str]]
"""By the name of an argument, the shape that it must have, and what it is."""


def get_prithvi_shapes(image: Tensor, frames: int) -> CoordinateShapes:
    """Times `(b, t, 2)` and places `(b, 2)`."""
    batch = image.shape[0]
    return {
        "temporal_coords": ((batch, frames, 2), "the year and the day of each frame of each image"),
        "location_coords": ((batch, 2), "the latitude and the longitude of each image"),
    }


def check_coordinates(given: Mapping[str, Any], image: Tensor, shapes: CoordinateShapes) -> None:
    """Raise ValueError for what is not of its shape, in numbers of the image's kind. None is none.

    TerraTorch would spread a shape that is nearly right over images, frames or patches.
    """
    for name, value in given.items():
        if value is not None:
            shape, meaning = shapes[name]
            _check_coordinate_shape(name, value, shape, meaning)
            _check_coordinate_numbers(name, value, image)


def _check_coordinate_shape(name: str, value: Any, shape: tuple[int, ...], meaning: str) -> None:
    if not isinstance(value, Tensor) or value.dim() != len(shape) or tuple(value.shape) != shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name} must be a tensor of shape {shape}, {meaning} (got {got})")


def _check_coordinate_numbers(name: str, value: Tensor, image: Tensor) -> None:
    if value.dtype not in COORDINATE_DTYPES:
        raise ValueError(
            f"{name} must be of {', '.join(map(str, COORDINATE_DTYPES[:-1]))} or {COORDINATE_DTYPES[-1]} (got {value.dtype})"
        )
    # What is wider than the image would widen the tokens too, which the weights then do not fit.
    wider = torch.promote_types(value.dtype, image.dtype) != image.dtype
    if wider and not torch.is_autocast_enabled(image.device.type):
        raise ValueError(f"{name} must be no wider than the image, of {image.dtype} (got {value.dtype})")
    if not torch.compiler.is_compiling() and not _is_finite(value):
        raise ValueError(f"{name} must hold finite numbers (got {_describe_nonfinite(value)})")


def _is_finite(value: Tensor) -> bool:
    try:
        return bool(value.isfinite().all())
    except RuntimeError:  # a tensor without values: on the meta device, or while something is traced
        return True


def _describe_nonfinite(value: Tensor) -> str:
    index = tuple(int(axis) for axis in (~value.isfinite()).nonzero()[0])
    return f"{float(value[index])} at {list(index)}"


_TIMM_FACTORIES = {made.__name__: made for made in (clay_v1_base, prithvi_swin_B, prithvi_swin_L)}


_DROP_RATES = ("drop_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate")


_UNREGISTERED_OPTIONS: Mapping[tuple[str, ...], frozenset[str]] = {
    CLAY: frozenset(inspect.signature(Embedder.__init__).parameters) - {"self", "kwargs"},
    SWIN: frozenset(inspect.signature(MMSegSwinTransformer.__init__).parameters) - {"self"},
    # Others of timm's reach layers that its forward leaves out.
    SCALE_MAE: frozenset({"default_input_res", "init_values", "qk_norm", *_DROP_RATES}),
}


def get_unregistered_options(part: TerraTorch) -> frozenset[str] | None:
    """The arguments that have an effect on such a backbone; None of those that TerraTorch's own registry has."""
    return next((known for names, known in _UNREGISTERED_OPTIONS.items() if part.name in names), None)


def create_unregistered(part: TerraTorch, arguments: Mapping[str, Any]) -> Any:
    """The network with random weights, and with all its levels where the part picks among those of a ScaleMAE."""
    if part.name not in SCALE_MAE:
        network = _TIMM_FACTORIES[part.name](features_only=True, **arguments)
        # A function of TerraTorch's own factories, which cannot be pickled.
        network.__dict__.pop("prepare_features_for_image_model", None)
        return network
    network = create_model(part.name.removeprefix("scalemae_"), **arguments)
    if part.out_indices is not None:
        network.out_indices = list(range(len(network.blocks)))
    return network


EXTRA_INPUTS: Mapping[type, frozenset[str]] = {
    Embedder: frozenset({"time", "latlon", "gsd"}),
    ScaleMAE: frozenset({"input_res"}),
}
"""The keyword arguments that a network takes beside its image. Clay's wavelengths are those of its bands."""


def forward_clay(network: Any, image: Tensor, extras: Mapping[str, Any]) -> Any:
    """The levels of Clay. Raises ValueError for times or places that are not `(b, 4)`, or for no size of a pixel."""
    batch = image.shape[0]
    size = extras.get("gsd")
    if size is not None and not (isinstance(size, int | float) and size > 0 and isfinite(size)):
        raise ValueError(f"gsd must be a number above 0, the metres of a pixel of all images (got {size!r})")
    shapes = {
        "time": ((batch, 4), "the week and the hour of each image, as sines and cosines"),
        "latlon": ((batch, 4), "the latitude and the longitude of each image, as sines and cosines"),
    }
    check_coordinates({name: value for name, value in extras.items() if name != "gsd"}, image, shapes)
    return network.forward_features(image, **extras)


def forward_scale_mae(network: Any, image: Tensor, extras: Mapping[str, Any]) -> Any:
    """The levels of ScaleMAE. Raises ValueError for sizes of pixels that are not `(b,)`."""
    shapes = {"input_res": ((image.shape[0],), "the metres of a pixel of each image")}
    check_coordinates(extras, image, shapes)
    size = extras.get("input_res")
    # It multiplies them with positions in single precision, and takes no others.
    return network(image, None if size is None else size.float())


TORCHGEO_WRAPPERS = (DOFAEncoderWrapper, ResNetEncoderWrapper, SwinEncoderWrapper, ViTEncoderWrapper)
"""TerraTorch's wrappers of torchgeo's networks. They keep where their weights are from, and the levels asked for."""


class TerraTorchBackbone(TransparentWrapper):
    """A backbone of TerraTorch. Its weights have TerraTorch's own names.

    `extras` are the keyword arguments that it takes beside its images: the times and places of a Prithvi that has
    learned from those, or of Clay, and the size of a pixel on the ground of Clay and ScaleMAE. Of all its levels, it
    gives the `indices`.
    """

    def __init__(self, network: Any, indices: Sequence[int] | None, modality: str | None = None) -> None:
        super().__init__(network)
        self.indices = None if indices is None else tuple(indices)
        self.modality = modality
        self.extras = _list_extra_inputs(network)

    def forward(self, image: Tensor | Mapping[str, Tensor], **extras: Any) -> tuple[Tensor, ...]:
        """The levels for an image `(b, c, h, w)`, or `(b, c, t, h, w)`, or for several images by modality.

        Raises ValueError for extras of another shape or of other numbers than the network takes.
        """
        if isinstance(self.network, PrithviViT):
            assert isinstance(image, Tensor)
            check_coordinates(extras, image, get_prithvi_shapes(image, self.network.num_frames))
            # The network's own forward is that of the masked autoencoder.
            given = self.network.forward_features(image, **extras)
        elif isinstance(self.network, Embedder | ScaleMAE):
            assert isinstance(image, Tensor)
            given = (forward_clay if isinstance(self.network, Embedder) else forward_scale_mae)(
                self.network, image, extras
            )
        else:
            given = self.network(image if self.modality is None else {self.modality: image})
        levels = (given,) if isinstance(given, Tensor) else tuple(given)
        return levels if self.indices is None else tuple(levels[index] for index in self.indices)


def create_terratorch_backbone(part: TerraTorch, channels: Channels, **more: Any) -> Any:
    """The network with random weights; with all the levels it has, where the part picks among them.

    Raises RejectionError for arguments that TerraTorch would ignore or misread, or that make the network too deep, and what
    it raises itself for others.
    """
    _check_options(part)
    with guard_import(), limit_modules():
        arguments = {**_build_image_arguments(part, channels), **to_keyword_arguments(part.options), **more}
        if part.name in UNREGISTERED:
            network = create_unregistered(part, arguments)
        else:
            network = TERRATORCH_BACKBONE_REGISTRY.build(part.name, **arguments)
    # Those of Prithvi and Clay are of the very network, which a copy would go on to run.
    network.__dict__.pop("forward", None)
    if isinstance(network, TORCHGEO_WRAPPERS):
        # It cannot be pickled, and nothing asks for it again.
        network.weights = None
        if part.out_indices is not None:
            network.out_indices = list(range(MAX_LEVELS))
    if isinstance(getattr(network, "missing_mod_token", None), nn.Parameter):
        # TerraTorch leaves what was in memory; it stands for an image that is absent, and here all are there.
        network.missing_mod_token.data.zero_()
    return network


def wrap_backbone(part: TerraTorch, network: Any, channels: Channels) -> TerraTorchBackbone:
    """A network as a module that gives the levels the part asks for."""
    single = part.modalities[0] if part.modalities and isinstance(channels, int) else None
    return TerraTorchBackbone(network, part.out_indices, single)


def _build_image_arguments(part: TerraTorch, channels: Channels) -> dict[str, Any]:
    """What a constructor is told of the images, by the names that it has for that."""
    if part.family.several:
        bands = _map_modality_bands(part, channels)
        modalities = _build_modalities(part, channels, bands)
        return {"modalities": modalities} | ({"bands": bands} if bands else {})
    assert isinstance(channels, int)
    if part.family.frames:
        return {"num_frames": part.frames or 1, "bands": _list_channel_bands(part, channels)}
    if part.name.startswith("dofa_"):
        return {"model_bands": _list_wavelength_bands(part, channels, waves_list)}
    if part.name in UNREGISTERED:
        return {
            "bands": _list_wavelength_bands(part, channels, WAVELENGTHS)
            if part.name in CLAY
            else _list_channel_bands(part, channels)
        }
    if part.name == "UNet":
        return {"in_channels": channels}
    if not part.family.bands:
        return {}
    # timm then resamples the positions of a ViT; at the size that it was made for, nothing changes.
    flexible = "_vit_" in part.name and "dynamic_img_size" not in dict(part.options)
    return {"model_bands": _list_channel_bands(part, channels)} | ({"dynamic_img_size": True} if flexible else {})


def _list_channel_bands(part: TerraTorch, count: int) -> list[Any]:
    """The names of the channels; numbers, which no weights know, where the part does not say."""
    if part.channel_bands is None:
        return list(range(count))
    if len(part.channel_bands) != count:
        raise RejectionError(reject_band_count(part.channel_bands, count))
    return list(part.channel_bands)


def _list_wavelength_bands(part: TerraTorch, count: int, known: Mapping[str, float]) -> list[Any]:
    """The names of the channels, of those that DOFA or Clay knows the wavelengths of."""
    if part.channel_bands is None:
        raise RejectionError(reject_missing_bands(count))
    for position, name in enumerate(part.channel_bands):
        if name not in known:
            raise RejectionError(reject_unknown_band(position, name, known))
    return _list_channel_bands(part, count)


def _map_modality_bands(part: TerraTorch, channels: Channels) -> dict[str, list[str]]:
    """The names of the channels of TerraMind's own modalities, of those for which the part gives them."""
    fed = dict(channels) if not isinstance(channels, int) else dict.fromkeys(part.modalities or (), channels)
    try:
        given = part.get_modality_bands(tuple(fed))
    except ValueError as error:
        raise RejectionError(reject_ambiguous_bands(fed)) from error
    for name, bands in given.items():
        if name not in fed or name not in MODALITIES:
            raise RejectionError(reject_bands_modality(name, [one for one in fed if one in MODALITIES]))
        if len(bands) != fed[name]:
            raise RejectionError(reject_band_count(bands, fed[name], name))
    return {name: list(bands) for name, bands in given.items()}


def _build_modalities(part: TerraTorch, channels: Channels, bands: Mapping[str, list[str]]) -> list[Any]:
    """TerraMind's own modalities by their names, and new ones with their channels."""
    declared = part.modalities
    if isinstance(channels, int):
        if declared is None or len(declared) != 1:
            raise RejectionError(reject_unnamed_image(declared))
        channels = ((declared[0], channels),)
    names = [name for name, _ in channels]
    if declared is not None and set(declared) != set(names):
        raise RejectionError(reject_modality_names(declared, names))
    for name, count in channels:
        if name not in MODALITIES and declared is None:
            raise RejectionError(reject_unknown_modality(name, names, MODALITIES))
        if name not in bands and MODALITIES.get(name, count) != count:
            for other, others in channels:
                if (MODALITIES.get(other), MODALITIES[name]) == (count, others) and others != count:
                    raise RejectionError(reject_swapped_modalities(name, count, other, others))
            raise RejectionError(reject_modality_channels(name, MODALITIES[name], count))
    return [name if name in MODALITIES else {name: count} for name, count in channels]


def _check_options(part: TerraTorch) -> None:
    """Refuse what is swallowed without a word, and images for positions that TerraMind takes for a square's."""
    given = dict(part.options)
    _check_frames(part.frames or 1, given.get("patch_size"))
    size = given.get("img_size")
    if part.family.several and isinstance(size, tuple) and len(set(size)) > 1:
        raise RejectionError(reject_nonsquare_positions(size))
    known = {"vit_adapter", *inspect.signature(PrithviViT.__init__).parameters} if part.family.frames else None
    if "_tokenizer_" in part.name:
        known = {"return_type", *inspect.signature(VQ.__init__).parameters}
    if part.name in UNREGISTERED:
        known = set(get_unregistered_options(part) or ())
    for name in given:
        if known is not None and name not in known:
            raise RejectionError(reject_terratorch_option(name, known - {"self", "kwargs"}))


def _check_frames(frames: int, patch: Any) -> None:
    """Refuse frames that do not fill patches of several: a convolution leaves out those at the end."""
    deep = patch[0] if isinstance(patch, tuple) and len(patch) == 3 else 1
    if isinstance(deep, int) and deep > 1 and frames % deep:
        raise RejectionError(reject_frame_count(frames, deep))


def _list_extra_inputs(network: Any) -> frozenset[str]:
    """What is told beside an image; a Prithvi without layers for times or places takes them and does nothing."""
    if not isinstance(network, PrithviViT):
        return next((names for kind, names in EXTRA_INPUTS.items() if isinstance(network, kind)), frozenset())
    has = {"temporal_coords": network.temporal_encoding, "location_coords": network.location_encoding}
    return frozenset(name for name, taken in has.items() if taken)
