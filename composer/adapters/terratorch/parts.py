"""Backbones of TerraTorch: names and declarations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import product
from types import MappingProxyType
from typing import Any, ClassVar, Self

from attrs import evolve, field, frozen

from composer.bands import find_band
from composer.errors import suggest
from composer.layouts import FRAMES, Feature
from composer.parts.base import ProbedEncoder
from composer.parts.encoders import IS_PRETRAINED, Pretrained, convert_pretrained
from composer.parts.rules import Rejection
from composer.parts.validators import (
    BOUNDED_OPTIONS,
    FRAME_COUNT,
    NON_EMPTY,
    OPTIONAL_INDEX,
    ForbiddenKeys,
    FrozenDict,
    Options,
    convert_optional_int_list,
    convert_options,
)


@frozen
class Family:
    """Backbones of one kind of network: a line that describes them, and the fields of a part that not all kinds have.

    `bands` are names of channels, `frames` several frames in one input, `modalities` several images by name.
    """

    kind: str
    line: str
    fields: tuple[str, ...] = ("bands",)


def _expand_names(patterns: str) -> tuple[str, ...]:
    """Return the names of patterns that have alternatives in braces: `swin_{b,t}` is `swin_b` and `swin_t`."""
    choices = ([part.split(",") for part in re.split("[{}]", pattern)] for pattern in patterns.split())
    return tuple("".join(choice) for parts in choices for choice in product(*parts))


_SEVERAL = "two modalities or more, by name"

_TERRATORCH_FAMILIES: Mapping[str, Family] = {
    "prithvi_eo_tiny prithvi_eo_v1_100 prithvi_eo_v2_{tiny_tl,100_tl,300,300_tl,600,600_tl}": Family(
        "prithvi", "Prithvi: a ViT over the frames of six Landsat and Sentinel-2 bands.", ("bands", "frames")
    ),
    "terramind_v01_base terramind_v1_{tiny,small,base,large}": Family(
        "terramind",
        f"TerraMind: a ViT over radar, optical images and elevation, {_SEVERAL}.",
        ("bands", "modalities"),
    ),
    "terramind_v01_base_tim terramind_v1_{tiny,small,base,large}_tim": Family(
        "tim",
        f"TerraMind that first draws land cover from what it is fed, at random; square images, {_SEVERAL}.",
        ("modalities",),
    ),
    "terramind_v1_tokenizer_{dem,lulc,ndvi,s1grd,s1rtc,s2l2a}": Family(
        "tokenizer", "The encoder of a tokenizer of TerraMind: a ViT over images of one modality.", ()
    ),
    "dofa_{small,base,large}_patch16_224": Family(
        "dofa", "DOFA: a ViT whose first layer is made for the wavelengths of its bands."
    ),
    "clay_v1_base": Family("clay", "Clay 1: a ViT whose first layer is made for the wavelengths of its bands."),
    "scalemae_vit_{base_patch16,large_patch16,huge_patch14}": Family(
        "scalemae", "ScaleMAE: a ViT whose positions are in metres; square images, RGB at first."
    ),
    "prithvi_swin_{B,L}": Family(
        "swin", "Prithvi as a Swin: over six Landsat and Sentinel-2 bands, one image at a time."
    ),
    "satlas_resnet152_sentinel2_{mi_ms,mi_rgb,si_ms_satlas,si_rgb_satlas} "
    "satlas_resnet50_sentinel2_{mi,si}_{ms,rgb}_satlas": Family(
        "torchgeo", "SatlasPretrain: a ResNet over aerial or Sentinel-2 images."
    ),
    "satlas_swin_b_{landsat_mi_ms,landsat_mi_rgb,naip_mi_rgb,naip_si_rgb,sentinel1_mi,sentinel1_si} "
    "satlas_swin_{b,t}_sentinel2_{mi,si}_{ms,rgb}": Family(
        "torchgeo", "SatlasPretrain: a Swin v2 over aerial, Landsat or Sentinel images."
    ),
    "ssl4eol_resnet{18,50}_landsat_{tm_toa,etm_toa,etm_sr,oli_tirs_toa,oli_sr}_{moco,simclr} "
    "ssl4eos12_resnet18_sentinel2_{all,rgb}_moco ssl4eos12_resnet50_sentinel1_all_{decur,moco} "
    "ssl4eos12_resnet50_sentinel2_{all_decur,all_dino,all_moco,all_softcon,rgb_moco}": Family(
        "torchgeo", "SSL4EO: a ResNet that learned from Landsat or Sentinel images by themselves."
    ),
    "ssl4eol_vit_small_patch16_224_landsat_{tm_toa,etm_toa,etm_sr,oli_sr}_{moco,simclr} "
    "ssl4eol_vit_small_patch16_224_landsat_oli_tirs_toa_simclr "
    "ssl4eos12_vit_small_patch16_224_sentinel2_all_{dino,moco}": Family(
        "torchgeo_vit", "SSL4EO: a ViT that learned from Landsat or Sentinel images by themselves."
    ),
    "seco_resnet{18,50}_sentinel2_rgb_seco": Family(
        "torchgeo", "SeCo: a ResNet that learned from the seasons of Sentinel-2 images."
    ),
    "fmow_resnet50_fmow_rgb_gassl": Family("torchgeo", "GASSL: a ResNet that learned where aerial images are."),
    "UNet": Family(
        "unet", "U-Net of MMSegmentation, decoder included: levels from the coarsest to the image's own.", ()
    ),
    "IdentityBackbone": Family("identity", "The image itself, as the only level.", ()),
}

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {name: family for names, family in _TERRATORCH_FAMILIES.items() for name in _expand_names(names)}
)
"""The backbones that are supported, each with its family."""

UNREGISTERED = tuple(name for name, family in FAMILIES.items() if family.kind in ("clay", "swin", "scalemae"))
"""The backbones that TerraTorch registers with timm, and ScaleMAE's, which it has in a table by the names after
`scalemae_`.
"""


@frozen(kw_only=True)
class Constructor:
    """Arguments of TerraTorch's constructors of one kind, and the padding that its factory applies for them.

    `bands` are the bands of a call that names none, as `bands_argument`; None where they have to be named. `patch` is
    the side in pixels of the patches that the factory pads for. `reads_file` is true where a file of weights is read
    without `pretrained`. `ignored` are arguments without an effect, and `options`, where there are any, all arguments
    with an effect beside those that describe images and weights: the constructor ignores others.
    """

    bands_argument: str | None = None
    bands: tuple[str, ...] | None = None
    patch: int | None = None
    reads_file: bool = False
    ignored: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


_HLS = ("BLUE", "GREEN", "RED", "NIR_NARROW", "SWIR_1", "SWIR_2")
_PROMPTS = ("vpt", "vpt_n_tokens", "vpt_dropout")
_VIT = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "norm_layer", "drop_path")
_PRITHVI = (*_VIT, "coords_encoding", "coords_scale_learn", *_PROMPTS, "vit_adapter")

CONSTRUCTORS: Mapping[str, Constructor] = MappingProxyType(
    {
        "prithvi": Constructor(bands_argument="bands", bands=_HLS, patch=16, options=_PRITHVI),
        "terramind": Constructor(patch=16, reads_file=True),
        "tim": Constructor(patch=16, reads_file=True),
        "tokenizer": Constructor(patch=16),
        "dofa": Constructor(bands_argument="model_bands", patch=16),
        "clay": Constructor(
            bands_argument="bands",
            bands=("blue", "green", "red", "nir", "swir16", "swir22"),
            patch=8,
            reads_file=True,
            ignored=("num_frames",),
            options=("img_size", *_PROMPTS),
        ),
        "scalemae": Constructor(bands_argument="bands", bands=("RED", "GREEN", "BLUE"), patch=16, reads_file=True),
        "swin": Constructor(bands_argument="bands", bands=_HLS, ignored=("num_frames",)),
        "torchgeo": Constructor(bands_argument="model_bands"),
        "torchgeo_vit": Constructor(bands_argument="model_bands", patch=16, ignored=("out_indices",)),
        "unet": Constructor(ignored=("pretrained",)),
        "identity": Constructor(),
    }
)
"""The constructors of each kind."""


def get_patch_side(name: str) -> int | None:
    """Return the side of the patches of a backbone that TerraTorch pads for; None where it does not pad."""
    return 14 if "_600" in name or name.endswith("patch14") else CONSTRUCTORS[FAMILIES[name].kind].patch


_SCORES = "it gives the scores of a classifier, and no features"
_CODE = "TerraTorch downloads the code of this network from GitHub and runs it"

_DINOV3 = {"s16": "small", "s16plus": "small_plus", "b16": "base", "l16": "large", "h16plus": "huge_plus", "7b16": "7b"}

_V2_SIZES = ("atto", "femto", "nano", "tiny", "base", "large", "huge")

UNSUPPORTED_BACKBONES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        **{f"convnextv2_{size}": (_SCORES, f"timm/convnextv2_{size}") for size in _V2_SIZES},
        "convnext_pico": (_SCORES, "timm/convnext_pico"),
        **{
            f"dinov3_convnext_{size}": (_CODE, f"timm/convnext_{size}.dinov3_lvd1689m")
            for size in ("tiny", "small", "base", "large")
        },
        **{f"dinov3_vit{name}": (_CODE, f"timm/vit_{size}_patch16_dinov3") for name, size in _DINOV3.items()},
        "dinov3_vitl16plus": (_CODE, "timm/vit_large_patch16_dinov3"),
    }
)
"""The backbones that are not supported, each with the reason and the name of an alternative."""

_CLAY_15 = (
    "TerraTorch has Clay 1.5 as a masked autoencoder alone, which downloads a teacher and gives losses and no features"
)

KNOWN_ABSENT: Mapping[str, str] = MappingProxyType(dict.fromkeys(("*clay*15*", "*clay*1[._]5*"), _CLAY_15))
"""Patterns of names that people look for and TerraTorch has no backbone of, each with the reason."""

_FORBIDDEN_REASONS = {
    "name out_indices pretrained modalities bands frames": "it is a field of its own",
    "model_bands": "give the names of the channels as bands",
    "pretrained_bands": "the weights tell their bands",
    "in_chans in_channels n_channels": "it is the channels of the input",
    "num_frames": "it is the frames of the input",
    "ckpt_path ckpt_data weights init_cfg": "composer loads weights itself: give the path of a file as pretrained",
    "norm_eval": "model.freeze stops the drift of statistics",
    "encoder_only": "an encoder has no decoder",
    "features_only": "composer makes the network itself",
}

FORBIDDEN_TERRATORCH_OPTIONS: Mapping[str, str] = MappingProxyType(
    {name: reason for names, reason in _FORBIDDEN_REASONS.items() for name in names.split()}
)
"""Arguments of TerraTorch that `options` may not hold, each with the reason."""

MODALITIES: Mapping[str, int] = MappingProxyType({"S2L2A": 12, "S2L1C": 13, "S1GRD": 2, "S1RTC": 2, "RGB": 3, "DEM": 1})
"""The channels of the images that TerraMind has weights for, by TerraTorch's names: those of its `MODALITY_INFO`."""

TOKENIZER_CHANNELS: Mapping[str, int] = {"dem": 1, "lulc": 10, "ndvi": 1, "s1grd": 2, "s1rtc": 2, "s2l2a": 12}
"""The channels of the image of each tokenizer of TerraMind, by the end of its name."""


def _validate_backbone_name(_: object, __: object, value: Any) -> None:
    if value in UNSUPPORTED_BACKBONES:
        reason, instead = UNSUPPORTED_BACKBONES[value]
        raise ValueError(f"terratorch/{value} cannot be had: {reason}; use {instead}")
    if value in FAMILIES:
        return
    absence = next((why for pattern, why in KNOWN_ABSENT.items() if fnmatchcase(str(value).lower(), pattern)), None)
    if absence:
        raise ValueError(f"terratorch/{value} cannot be had: {absence}")
    raise ValueError(f"TerraTorch has no backbone {value!r}: {suggest(str(value), FAMILIES)}")


def _convert_names(values: Any) -> tuple[str, ...] | None:
    if values is None:
        return None
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) and value for value in values):
        raise ValueError(f"a list of names is needed (got {values!r})")
    if len(set(values)) < len(values):
        raise ValueError(f"each name is given once (got {list(values)!r})")
    return tuple(values)


def _convert_bands(values: Any) -> tuple[str, ...] | FrozenDict | None:
    """Return the names of bands; those of each modality where `values` are a mapping or pairs."""
    is_pairs = isinstance(values, tuple) and any(isinstance(entry, tuple) for entry in values)
    if not isinstance(values, Mapping) and not is_pairs:
        return _convert_names(values)
    return FrozenDict({name: _convert_names(names) for name, names in dict(values).items()})


@frozen
class TerraTorch(ProbedEncoder):
    """A backbone of TerraTorch's own registry: `terratorch/NAME`.

    `out_indices` picks levels among all that the backbone has, in any order (TerraTorch's default where it is absent:
    every block of a transformer, the last level of a pyramid). `pretrained` is true for the weights that TerraTorch
    publishes for this name, false, the path of a file with such weights, or a `WeightsFile`. `bands` names the
    channels of the image, as TerraTorch does (`BLUE`, `NIR_NARROW`) or as the weights do (`B2`): the first layer
    takes those channels of the weights, and random weights for a band that they lack; DOFA computes it from the
    wavelengths of the bands. TerraMind takes the bands of each modality, `bands: {S2L2A: [BLUE, GREEN, RED]}`; a list
    is that of the one modality in `modalities`. `frames` is the number of frames of a Prithvi. Both are those of the
    input by default. `modalities` names the modality of a single image for TerraMind; several are fed by their names,
    `from: {S2L2A: optical, S1GRD: radar}`. A name that TerraMind has no weights for is a new modality where this
    field lists it. `options` are other arguments of the constructor.
    """

    source: ClassVar[str | None] = "terratorch"
    names: ClassVar[Mapping[str, str] | None] = MappingProxyType({n: family.line for n, family in FAMILIES.items()})
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            name: {"out_indices": None, "pretrained": False, "options": (), **dict.fromkeys(family.fields)}
            for name, family in FAMILIES.items()
        }
    )
    refused: ClassVar[Mapping[str, tuple[str, str]]] = UNSUPPORTED_BACKBONES
    outside: ClassVar[Mapping[str, str]] = KNOWN_ABSENT

    name: str = field(validator=_validate_backbone_name)
    out_indices: tuple[int, ...] | None = field(
        default=None, converter=convert_optional_int_list, validator=[NON_EMPTY, OPTIONAL_INDEX], kw_only=True
    )
    pretrained: Pretrained = field(default=False, converter=convert_pretrained, validator=IS_PRETRAINED, kw_only=True)
    bands: tuple[str, ...] | Options | None = field(
        default=None, converter=_convert_bands, validator=NON_EMPTY, kw_only=True
    )
    frames: int | None = field(default=None, validator=FRAME_COUNT, kw_only=True)
    modalities: tuple[str, ...] | None = field(
        default=None, converter=_convert_names, validator=NON_EMPTY, kw_only=True
    )
    options: Options = field(
        default=(),
        converter=convert_options,
        validator=[ForbiddenKeys(FORBIDDEN_TERRATORCH_OPTIONS), BOUNDED_OPTIONS],
        kw_only=True,
    )

    def __attrs_post_init__(self) -> None:
        for name in ("bands", "frames", "modalities"):
            if name not in self.family.fields and getattr(self, name) is not None:
                raise ValueError(f"terratorch/{self.name} has no field {name!r}")
        if isinstance(self.bands, FrozenDict) and not self.takes_names:
            raise ValueError(f"bands must be a list of names: terratorch/{self.name} takes one image")

    @property
    def family(self) -> Family:
        """The backbones to which it belongs."""
        return FAMILIES[self.name]

    @property
    def channel_bands(self) -> tuple[str, ...] | None:
        """The names of the channels of its only image."""
        return None if isinstance(self.bands, FrozenDict) else self.bands  # type: ignore[return-value]

    def get_modality_bands(self, modalities: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        """Return the names of the bands by modality, where the part has names; a list is that of each of them."""
        if self.bands is None or isinstance(self.bands, FrozenDict):
            return self.bands or {}
        return dict.fromkeys(modalities, self.bands)  # type: ignore[arg-type]

    def normalize_band(self, name: str) -> str:
        """Return the common name of a band; a number is that of the satellite whose images the weights are of."""
        if "landsat" not in self.name:
            return find_band(name) or name
        satellite = "L8" if "oli" in self.name or "satlas" in self.name else "L7"
        return find_band(f"{satellite}_{name.removeprefix('SR_')}") or name

    def copy_with_bands(self, bands: Mapping[str | None, tuple[str, ...]]) -> Self | Rejection:
        """Return the part with the bands of its images where it declares none, or a rejection where they differ."""
        if "bands" not in self.family.fields:
            return self
        only = self.modalities[0] if self.takes_names and self.modalities else None
        fed: dict[Any, tuple[str, ...]] = {name or only: names for name, names in bands.items()}
        if self.takes_names:
            fed = {name: names for name, names in fed.items() if name in MODALITIES}
        own = self.get_modality_bands([*fed])
        for name, names in fed.items():
            if name in own and tuple(map(self.normalize_band, own[name])) != names:
                rule, got = f"has the bands {', '.join(own[name])}", f"an image of {', '.join(names)}"
                fix = "leave bands out of the encoder, or out of the input"
                return Rejection(code="argument", kind="policy", expected=rule, got=got, fix=fix, about="bands")
        return evolve(self, bands={**fed, **own} if self.takes_names else self.bands or fed[None])

    @property
    def takes_names(self) -> bool:
        """True where it takes several images, each by the name of its modality."""
        return "modalities" in self.family.fields

    @property
    def image_names(self) -> tuple[str, ...]:
        """The modalities that it lists, or those that TerraMind has weights for."""
        return (self.modalities or tuple(MODALITIES)) if self.takes_names else ()

    def find_image_names(self, channels: tuple[int, ...]) -> tuple[str, ...] | None:
        """Return a different modality for each number of channels, or None; a new modality may have any number."""
        free = sorted(self.image_names, key=lambda name: name not in MODALITIES)
        names = []
        for count in channels:
            name = next((name for name in free if MODALITIES.get(name, count) == count), None)
            if name is None:
                return None
            free.remove(name)
            names.append(name)
        return tuple(names)

    def copy_with_inputs(self, /, *images: Feature, **named: Feature) -> Self:  # noqa: ARG002
        """Return the part with the frames of its image, where it takes several and declares no number."""
        if "frames" in self.family.fields and self.frames is None and images and images[0].axes == FRAMES:
            return evolve(self, frames=images[0].frames)
        return self
