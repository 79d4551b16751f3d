"""The backbones of TerraTorch as TerraTorch makes them, and as modules. B batch, C channels, T frames."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from terratorch.models.backbones.clay_v1.embedder import Embedder
from terratorch.models.backbones.clay_v1.modules import WAVELENGTHS
from terratorch.models.backbones.dofa_vit import DOFAEncoderWrapper, waves_list
from terratorch.models.backbones.prithvi_mae import PrithviViT
from terratorch.models.backbones.scalemae import VisionTransformer as ScaleMAE
from terratorch.models.backbones.terramind.tokenizer.vqvae import VQ
from terratorch.models.backbones.torchgeo_resnet import ResNetEncoderWrapper
from terratorch.models.backbones.torchgeo_swin_satlas import SwinEncoderWrapper
from terratorch.models.backbones.torchgeo_vit import ViTEncoderWrapper
from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY
from torch import Tensor, nn

from composer.adapters.terratorch.coordinates import check_coordinates, of_prithvi
from composer.adapters.terratorch.elsewhere import (
    EXTRAS,
    made_elsewhere,
    options_elsewhere,
    told_clay,
    told_scale_mae,
)
from composer.adapters.terratorch.refusals import (
    bands_of_another,
    bands_of_which,
    bands_unlike,
    frames_left_over,
    modalities_swapped,
    modality_unlike,
    no_bands,
    other_modalities,
    positions_not_square,
    unknown_band,
    unknown_modality,
    unknown_option,
    which_modality,
)
from composer.contracts.rules import Refused
from composer.modules.growth import few_modules
from composer.modules.own_names import OwnNames
from composer.parts import Channels, TerraTorch
from composer.parts.fields import MOST_LEVELS, arguments_of
from composer.parts.terratorch import MODALITIES
from composer.parts.terratorch_names import CLAY, ELSEWHERE
from composer.quiet import contained

PYRAMIDS = (DOFAEncoderWrapper, ResNetEncoderWrapper, SwinEncoderWrapper, ViTEncoderWrapper)
"""TerraTorch's wrappers of torchgeo's networks. They keep where their weights are from, and the levels asked for."""


class TerraTorchBackbone(OwnNames):
    """A backbone of TerraTorch. Its weights have TerraTorch's own names.

    `extras` are the keyword arguments that it takes beside its images: the times and places of a Prithvi that has
    learned from those, or of Clay, and the size of a pixel on the ground of Clay and ScaleMAE. Of all its levels, it
    gives the `indices`.
    """

    def __init__(self, network: Any, indices: Sequence[int] | None, modality: str | None = None) -> None:
        super().__init__(network)
        self.indices = None if indices is None else tuple(indices)
        self.modality = modality
        self.extras = _extras(network)

    def forward(self, image: Tensor | Mapping[str, Tensor], **extras: Any) -> tuple[Tensor, ...]:
        """The levels for an image `(b, c, h, w)`, or `(b, c, t, h, w)`, or for several images by modality.

        Raises ValueError for extras of another shape or of other numbers than the network takes.
        """
        if isinstance(self.network, PrithviViT):
            assert isinstance(image, Tensor)
            check_coordinates(extras, image, of_prithvi(image, self.network.num_frames))
            # The network's own forward is that of the masked autoencoder.
            given = self.network.forward_features(image, **extras)
        elif isinstance(self.network, Embedder | ScaleMAE):
            assert isinstance(image, Tensor)
            given = (told_clay if isinstance(self.network, Embedder) else told_scale_mae)(self.network, image, extras)
        else:
            given = self.network(image if self.modality is None else {self.modality: image})
        levels = (given,) if isinstance(given, Tensor) else tuple(given)
        return levels if self.indices is None else tuple(levels[index] for index in self.indices)


def created(part: TerraTorch, channels: Channels, **more: Any) -> Any:
    """The network with random weights; with all the levels it has, where the part picks among them.

    Raises Refused for arguments that TerraTorch would ignore or misread, or that make the network too deep, and what
    it raises itself for others.
    """
    _check_options(part)
    with contained(), few_modules():
        arguments = {**_told(part, channels), **arguments_of(part.options), **more}
        if part.name in ELSEWHERE:
            network = made_elsewhere(part, arguments)
        else:
            network = TERRATORCH_BACKBONE_REGISTRY.build(part.name, **arguments)
    # Those of Prithvi and Clay are of the very network, which a copy would go on to run.
    network.__dict__.pop("forward", None)
    if isinstance(network, PYRAMIDS):
        # It cannot be pickled, and nothing asks for it again.
        network.weights = None
        if part.out_indices is not None:
            network.out_indices = list(range(MOST_LEVELS))
    if isinstance(getattr(network, "missing_mod_token", None), nn.Parameter):
        # TerraTorch leaves what was in memory; it stands for an image that is absent, and here all are there.
        network.missing_mod_token.data.zero_()
    return network


def module_of(part: TerraTorch, network: Any, channels: Channels) -> TerraTorchBackbone:
    """A network as a module that gives the levels the part asks for."""
    single = part.modalities[0] if part.modalities and isinstance(channels, int) else None
    return TerraTorchBackbone(network, part.out_indices, single)


def _told(part: TerraTorch, channels: Channels) -> dict[str, Any]:
    """What a constructor is told of the images, by the names that it has for that."""
    if part.family.several:
        bands = _bands_by_modality(part, channels)
        modalities = _modalities(part, channels, bands)
        return {"modalities": modalities} | ({"bands": bands} if bands else {})
    assert isinstance(channels, int)
    if part.family.frames:
        return {"num_frames": part.frames or 1, "bands": _bands(part, channels)}
    if part.name.startswith("dofa_"):
        return {"model_bands": _wavelengths(part, channels, waves_list)}
    if part.name in ELSEWHERE:
        return {"bands": _wavelengths(part, channels, WAVELENGTHS) if part.name in CLAY else _bands(part, channels)}
    if part.name == "UNet":
        return {"in_channels": channels}
    if not part.family.bands:
        return {}
    # timm then resamples the positions of a ViT; at the size that it was made for, nothing changes.
    flexible = "_vit_" in part.name and "dynamic_img_size" not in dict(part.options)
    return {"model_bands": _bands(part, channels)} | ({"dynamic_img_size": True} if flexible else {})


def _bands(part: TerraTorch, count: int) -> list[Any]:
    """The names of the channels; numbers, which no weights know, where the part does not say."""
    if part.channel_bands is None:
        return list(range(count))
    if len(part.channel_bands) != count:
        raise Refused(bands_unlike(part.channel_bands, count))
    return list(part.channel_bands)


def _wavelengths(part: TerraTorch, count: int, known: Mapping[str, float]) -> list[Any]:
    """The names of the channels, of those that DOFA or Clay knows the wavelengths of."""
    if part.channel_bands is None:
        raise Refused(no_bands(count))
    for position, name in enumerate(part.channel_bands):
        if name not in known:
            raise Refused(unknown_band(position, name, known))
    return _bands(part, count)


def _bands_by_modality(part: TerraTorch, channels: Channels) -> dict[str, list[str]]:
    """The names of the channels of TerraMind's own modalities, of those for which the part gives them."""
    fed = dict(channels) if not isinstance(channels, int) else dict.fromkeys(part.modalities or (), channels)
    try:
        given = part.bands_of(tuple(fed))
    except ValueError as error:
        raise Refused(bands_of_which(fed)) from error
    for name, bands in given.items():
        if name not in fed or name not in MODALITIES:
            raise Refused(bands_of_another(name, [one for one in fed if one in MODALITIES]))
        if len(bands) != fed[name]:
            raise Refused(bands_unlike(bands, fed[name], name))
    return {name: list(bands) for name, bands in given.items()}


def _modalities(part: TerraTorch, channels: Channels, bands: Mapping[str, list[str]]) -> list[Any]:
    """TerraMind's own modalities by their names, and new ones with their channels."""
    declared = part.modalities
    if isinstance(channels, int):
        if declared is None or len(declared) != 1:
            raise Refused(which_modality(declared))
        channels = ((declared[0], channels),)
    names = [name for name, _ in channels]
    if declared is not None and set(declared) != set(names):
        raise Refused(other_modalities(declared, names))
    for name, count in channels:
        if name not in MODALITIES and declared is None:
            raise Refused(unknown_modality(name, names, MODALITIES))
        if name not in bands and MODALITIES.get(name, count) != count:
            for other, others in channels:
                if (MODALITIES.get(other), MODALITIES[name]) == (count, others) and others != count:
                    raise Refused(modalities_swapped(name, count, other, others))
            raise Refused(modality_unlike(name, MODALITIES[name], count))
    return [name if name in MODALITIES else {name: count} for name, count in channels]


def _check_options(part: TerraTorch) -> None:
    """Refuse what is swallowed without a word, and images for positions that TerraMind takes for a square's."""
    given = dict(part.options)
    _check_frames(part.frames or 1, given.get("patch_size"))
    size = given.get("img_size")
    if part.family.several and isinstance(size, tuple) and len(set(size)) > 1:
        raise Refused(positions_not_square(size))
    known = {"vit_adapter", *inspect.signature(PrithviViT.__init__).parameters} if part.family.frames else None
    if "_tokenizer_" in part.name:
        known = {"return_type", *inspect.signature(VQ.__init__).parameters}
    if part.name in ELSEWHERE:
        known = set(options_elsewhere(part) or ())
    for name in given:
        if known is not None and name not in known:
            raise Refused(unknown_option(name, known - {"self", "kwargs"}))


def _check_frames(frames: int, patch: Any) -> None:
    """Refuse frames that do not fill patches of several: a convolution leaves out those at the end."""
    deep = patch[0] if isinstance(patch, tuple) and len(patch) == 3 else 1
    if isinstance(deep, int) and deep > 1 and frames % deep:
        raise Refused(frames_left_over(frames, deep))


def _extras(network: Any) -> frozenset[str]:
    """What is told beside an image; a Prithvi without layers for times or places takes them and does nothing."""
    if not isinstance(network, PrithviViT):
        return next((names for kind, names in EXTRAS.items() if isinstance(network, kind)), frozenset())
    has = {"temporal_coords": network.temporal_encoding, "location_coords": network.location_encoding}
    return frozenset(name for name, taken in has.items() if taken)
