"""Backbones of TerraTorch: names and declarations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, ClassVar, Self

from attrs import evolve, field, frozen

from composer.errors import suggest
from composer.layouts import FRAMES, Feature
from composer.parts.base import ProbedEncoder
from composer.parts.encoders import IS_PRETRAINED, Pretrained, convert_pretrained
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
    """Backbones of one kind: a line that describes them, and which fields of a part they have.

    `bands` are names of channels, `frames` several frames in one input, `several` images by name.
    """

    line: str
    bands: bool = False
    frames: bool = False
    several: bool = False


_LANDSAT = ("tm_toa", "etm_toa", "etm_sr", "oli_tirs_toa", "oli_sr")
_SSL_METHODS = ("moco", "simclr")
_SATLAS_INPUTS = ("mi_ms", "mi_rgb", "si_ms", "si_rgb")


def _join_names(begin: str, *ends: tuple[str, ...]) -> Iterator[str]:
    """Yield every name that begins with `begin` and continues with one of each of `ends`, joined by underscores."""
    if not ends:
        yield begin
        return
    for end in ends[0]:
        yield from _join_names(f"{begin}_{end}", *ends[1:])


_V2 = ("tiny_tl", "100_tl", "300", "300_tl", "600", "600_tl")
_PRITHVI = ("prithvi_eo_tiny", "prithvi_eo_v1_100", *_join_names("prithvi_eo_v2", _V2))
_TERRAMIND = ("terramind_v01_base", *_join_names("terramind_v1", ("tiny", "small", "base", "large")))
_TOKENIZERS = tuple(_join_names("terramind_v1_tokenizer", ("dem", "lulc", "ndvi", "s1grd", "s1rtc", "s2l2a")))

_SSL4EO = (
    *_join_names("ssl4eol_resnet18_landsat", _LANDSAT, _SSL_METHODS),
    *_join_names("ssl4eol_resnet50_landsat", _LANDSAT, _SSL_METHODS),
    *_join_names("ssl4eos12_resnet18_sentinel2", ("all_moco", "rgb_moco")),
    *_join_names("ssl4eos12_resnet50", ("sentinel1_all",), ("decur", "moco")),
    *_join_names("ssl4eos12_resnet50_sentinel2", ("all_decur", "all_dino", "all_moco", "all_softcon", "rgb_moco")),
)

_SSL4EO_VIT = (
    *(
        name
        for name in _join_names("ssl4eol_vit_small_patch16_224_landsat", _LANDSAT, _SSL_METHODS)
        if name != "ssl4eol_vit_small_patch16_224_landsat_oli_tirs_toa_moco"
    ),
    *_join_names("ssl4eos12_vit_small_patch16_224_sentinel2_all", ("dino", "moco")),
)

_SATLAS = (
    "satlas_resnet152_sentinel2_mi_ms",
    "satlas_resnet152_sentinel2_mi_rgb",
    *_join_names("satlas_resnet152_sentinel2", ("si_ms_satlas", "si_rgb_satlas")),
    *(f"satlas_resnet50_sentinel2_{seen}_satlas" for seen in _SATLAS_INPUTS),
)

_SATLAS_SWIN = (
    *_join_names("satlas_swin_b", ("landsat_mi_ms", "landsat_mi_rgb", "naip_mi_rgb", "naip_si_rgb")),
    *_join_names("satlas_swin_b", ("sentinel1",), ("mi", "si")),
    *_join_names("satlas_swin_b_sentinel2", _SATLAS_INPUTS),
    *_join_names("satlas_swin_t_sentinel2", _SATLAS_INPUTS),
)

_SECO = tuple(f"seco_{network}_sentinel2_rgb_seco" for network in ("resnet18", "resnet50"))
CLAY = ("clay_v1_base",)
SWIN = ("prithvi_swin_B", "prithvi_swin_L")
SCALE_MAE = tuple(f"scalemae_{name}" for name in ("vit_base_patch16", "vit_large_patch16", "vit_huge_patch14"))
UNREGISTERED = (*CLAY, *SWIN, *SCALE_MAE)
"""The backbones that TerraTorch registers with timm, and ScaleMAE's, which it has in a table by the names after
`scalemae_`.
"""

_SEVERAL_MODALITIES = "two modalities or more, by name"

_TERRATORCH_FAMILIES: Mapping[tuple[str, ...], Family] = {
    _PRITHVI: Family("Prithvi: a ViT over the frames of six Landsat and Sentinel-2 bands.", bands=True, frames=True),
    _TERRAMIND: Family(
        f"TerraMind: a ViT over radar, optical images and elevation, {_SEVERAL_MODALITIES}.", bands=True, several=True
    ),
    tuple(f"{name}_tim" for name in _TERRAMIND): Family(
        f"TerraMind that first draws land cover from what it is fed, at random; square images, {_SEVERAL_MODALITIES}.",
        several=True,
    ),
    _TOKENIZERS: Family("The encoder of a tokenizer of TerraMind: a ViT over images of one modality."),
    tuple(f"dofa_{size}_patch16_224" for size in ("small", "base", "large")): Family(
        "DOFA: a ViT whose first layer is made for the wavelengths of its bands.", bands=True
    ),
    CLAY: Family("Clay 1: a ViT whose first layer is made for the wavelengths of its bands.", bands=True),
    SCALE_MAE: Family("ScaleMAE: a ViT whose positions are in metres; square images, RGB at first.", bands=True),
    SWIN: Family("Prithvi as a Swin: over six Landsat and Sentinel-2 bands, one image at a time.", bands=True),
    _SATLAS: Family("SatlasPretrain: a ResNet over aerial or Sentinel-2 images.", bands=True),
    _SATLAS_SWIN: Family("SatlasPretrain: a Swin v2 over aerial, Landsat or Sentinel images.", bands=True),
    _SSL4EO: Family("SSL4EO: a ResNet that learned from Landsat or Sentinel images by themselves.", bands=True),
    _SSL4EO_VIT: Family("SSL4EO: a ViT that learned from Landsat or Sentinel images by themselves.", bands=True),
    _SECO: Family("SeCo: a ResNet that learned from the seasons of Sentinel-2 images.", bands=True),
    ("fmow_resnet50_fmow_rgb_gassl",): Family("GASSL: a ResNet that learned where aerial images are.", bands=True),
    ("UNet",): Family("U-Net of MMSegmentation, decoder included: levels from the coarsest to the image's own."),
    ("IdentityBackbone",): Family("The image itself, as the only level."),
}

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {name: family for names, family in _TERRATORCH_FAMILIES.items() for name in names}
)
"""The backbones that are supported, each with its family."""

_SCORES = "it gives the scores of a classifier, and no features"
_CODE = "TerraTorch downloads the code of this network from GitHub and runs it"

_DINOV3 = {
    **{f"convnext_{size}": f"convnext_{size}.dinov3_lvd1689m" for size in ("tiny", "small", "base", "large")},
    "vits16": "vit_small_patch16_dinov3",
    "vits16plus": "vit_small_plus_patch16_dinov3",
    "vitb16": "vit_base_patch16_dinov3",
    "vitl16": "vit_large_patch16_dinov3",
    "vitl16plus": "vit_large_patch16_dinov3",
    "vith16plus": "vit_huge_plus_patch16_dinov3",
    "vit7b16": "vit_7b_patch16_dinov3",
}

_V2_SIZES = ("atto", "femto", "nano", "tiny", "base", "large", "huge")

UNSUPPORTED_BACKBONES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        **{f"convnextv2_{size}": (_SCORES, f"timm/convnextv2_{size}") for size in _V2_SIZES},
        "convnext_pico": (_SCORES, "timm/convnext_pico"),
        **{f"dinov3_{name}": (_CODE, f"timm/{instead}") for name, instead in _DINOV3.items()},
    }
)
"""The backbones that are not supported, each with the reason and the name of an alternative."""

_CLAY_15 = (
    "TerraTorch has Clay 1.5 as a masked autoencoder alone, which downloads a teacher and gives losses and no features"
)

KNOWN_ABSENT: Mapping[str, str] = MappingProxyType(dict.fromkeys(("*clay*15*", "*clay*1[._]5*"), _CLAY_15))
"""Patterns of names that people look for and TerraTorch has no backbone of, each with the reason."""

_FIELD = "it is a field of its own"
_CHANNELS = "it is the channels of the input"
_FRAMES = "it is the frames of the input"
_WEIGHTS = "composer loads weights itself: give the path of a file as pretrained"
_BANDS = "give the names of the channels as bands"

FORBIDDEN_TERRATORCH_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "name": _FIELD,
        "out_indices": _FIELD,
        "pretrained": _FIELD,
        "modalities": _FIELD,
        "bands": _FIELD,
        "model_bands": _BANDS,
        "pretrained_bands": "the weights tell their bands",
        "in_chans": _CHANNELS,
        "in_channels": _CHANNELS,
        "n_channels": _CHANNELS,
        "num_frames": _FRAMES,
        "frames": _FIELD,
        "ckpt_path": _WEIGHTS,
        "ckpt_data": _WEIGHTS,
        "weights": _WEIGHTS,
        "init_cfg": _WEIGHTS,
        "norm_eval": "model.freeze stops the drift of statistics",
        "encoder_only": "an encoder has no decoder",
        "features_only": "composer makes the network itself",
    }
)
"""Arguments of TerraTorch that `options` may not hold, each with the reason."""

MODALITIES: Mapping[str, int] = MappingProxyType({"S2L2A": 12, "S2L1C": 13, "S1GRD": 2, "S1RTC": 2, "RGB": 3, "DEM": 1})
"""The channels of the images that TerraMind has weights for, by TerraTorch's names: those of its `MODALITY_INFO`."""


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


def _build_backbone_defaults(family: Family) -> Mapping[str, Any]:
    """Return the fields that a backbone of this family has, with their defaults."""
    own = [("bands", family.bands), ("frames", family.frames), ("modalities", family.several)]
    return {"out_indices": None, "pretrained": False, "options": (), **{name: None for name, has in own if has}}


def _convert_bands(values: Any) -> tuple[str, ...] | FrozenDict | None:
    """Return the names of bands; those of each modality where `values` are a mapping or pairs."""
    is_pairs = isinstance(values, tuple) and any(isinstance(entry, tuple) for entry in values)
    if not isinstance(values, Mapping) and not is_pairs:
        return _convert_names(values)
    return FrozenDict({name: _convert_names(names) for name, names in dict(values).items()})


def _validate_modalities(_: object, __: object, value: tuple[str, ...] | None) -> None:
    for name in value or ():
        if name in ("facts", "pretrained"):
            raise ValueError(f"{name!r} cannot be the name of a modality")


@frozen
class TerraTorch(ProbedEncoder):
    """A backbone of TerraTorch's own registry: `terratorch/NAME`.

    `out_indices` picks levels among all that the backbone has, in any order (TerraTorch's default where it is absent:
    every block of a transformer, the last level of a pyramid). `pretrained` is true for the weights that TerraTorch
    publishes for this name, false, the path of a file with such weights, or a `WeightsFile`. `bands` names the
    channels of the image, as TerraTorch does (`BLUE`, `NIR_NARROW`) or as the weights do (`B2`): the first layer
    takes those channels of the weights, and random weights for a band that they lack; DOFA computes it from the
    wavelengths of the bands. TerraMind takes the bands of each modality, `bands: {S2L2A: [BLUE, GREEN, RED]}`; a list
    is that of the one modality in `modalities`. `frames` is the number of frames of a Prithvi, the input's by default.
    `modalities` names the modality of a single image for TerraMind; several are fed by their names,
    `from: {S2L2A: optical, S1GRD: radar}`. A name that TerraMind has no weights for is a new modality where this
    field lists it. `options` are other arguments of the constructor.
    """

    source: ClassVar[str | None] = "terratorch"
    names: ClassVar[Mapping[str, str] | None] = MappingProxyType({n: family.line for n, family in FAMILIES.items()})
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {name: _build_backbone_defaults(family) for name, family in FAMILIES.items()}
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
        default=None, converter=_convert_names, validator=[NON_EMPTY, _validate_modalities], kw_only=True
    )
    options: Options = field(
        default=(),
        converter=convert_options,
        validator=[ForbiddenKeys(FORBIDDEN_TERRATORCH_OPTIONS), BOUNDED_OPTIONS],
        kw_only=True,
    )

    def __attrs_post_init__(self) -> None:
        known = self.defaults[self.name]
        for name in ("bands", "frames", "modalities"):
            if name not in known and getattr(self, name) is not None:
                raise ValueError(f"terratorch/{self.name} has no field {name!r}")
        if isinstance(self.bands, FrozenDict) and not self.family.several:
            raise ValueError(f"bands must be a list of names: terratorch/{self.name} takes one image")

    @property
    def family(self) -> Family:
        """The facts of backbones of this kind."""
        return FAMILIES[self.name]

    @property
    def channel_bands(self) -> tuple[str, ...] | None:
        """The names of the channels of its only image."""
        return None if isinstance(self.bands, FrozenDict) else self.bands  # type: ignore[return-value]

    def get_modality_bands(self, modalities: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        """Return the names of the bands by modality, where the part has names.

        Raises ValueError for a list of names where there is not exactly one modality.
        """
        if self.bands is None or isinstance(self.bands, FrozenDict):
            return self.bands or {}
        if len(modalities) != 1:
            raise ValueError("a list of bands is that of one modality")
        return {modalities[0]: self.bands}  # type: ignore[dict-item]

    @property
    def takes_names(self) -> bool:
        """True where it takes several images, each by the name of its modality."""
        return self.family.several

    @property
    def image_names(self) -> tuple[str, ...]:
        """The modalities that it lists, or those that TerraMind has weights for."""
        return (self.modalities or tuple(MODALITIES)) if self.family.several else ()

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
        if self.family.frames and self.frames is None and images and images[0].axes == FRAMES:
            return evolve(self, frames=images[0].frames)
        return self
