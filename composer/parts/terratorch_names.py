"""The names of TerraTorch's registry of backbones: what each is, and why some of them cannot be had. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType

from attrs import frozen


@frozen
class Family:
    """Backbones of one kind: a line on them, and which of a part's fields they have.

    `bands` are names of channels, `frames` are seen at once, and `several` images are taken by name.
    """

    line: str
    bands: bool = False
    frames: bool = False
    several: bool = False


_LANDSAT = ("tm_toa", "etm_toa", "etm_sr", "oli_tirs_toa", "oli_sr")
_SSL_METHODS = ("moco", "simclr")
_SATLAS_INPUTS = ("mi_ms", "mi_rgb", "si_ms", "si_rgb")


def _join_names(begin: str, *ends: tuple[str, ...]) -> Iterator[str]:
    """Every name that begins so and goes on with one of each, joined by underscores."""
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
"""The backbones that can be had, each with its family."""

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
"""The backbones that cannot be had, each with the reason and the name of another that will do."""


_CLAY_15 = (
    "TerraTorch has Clay 1.5 as a masked autoencoder alone, which downloads a teacher and gives losses and no features"
)
KNOWN_ABSENT: Mapping[str, str] = MappingProxyType(dict.fromkeys(("*clay*15*", "*clay*1[._]5*"), _CLAY_15))
"""Patterns of names that people look for and TerraTorch has no backbone of, each with what is said."""


def explain_absence(name: str) -> str | None:
    """Why a name that people look for here is not here; None of any other."""
    return next((reason for pattern, reason in KNOWN_ABSENT.items() if fnmatchcase(name.lower(), pattern)), None)
