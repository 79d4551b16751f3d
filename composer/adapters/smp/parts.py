"""Encoders and decoders of smp: declarations."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

from attrs import Attribute, evolve, field, frozen
from attrs.validators import optional

from composer.adapters.decoders import (
    TableDecoder,
    declare_argument,
    declare_flag,
    declare_list_argument,
    list_arguments,
    require_length,
)
from composer.bands import RGB
from composer.errors import suggest
from composer.parts.base import Part, ProbedEncoder
from composer.parts.encoders import IS_PRETRAINED, Pretrained, convert_pretrained
from composer.parts.validators import BOOL, NON_EMPTY, OPTIONAL_CHANNELS, RATE, Choice, IntRange

_RESNETS = "resnet18 resnet34 resnet50 resnet101 resnet152"

_RESNEXTS = "resnext50_32x4d resnext101_32x4d resnext101_32x8d resnext101_32x16d resnext101_32x32d resnext101_32x48d"

_SQUEEZED = "senet154 se_resnet50 se_resnet101 se_resnet152 se_resnext50_32x4d se_resnext101_32x4d"

_EFFICIENT = " ".join(f"efficientnet-b{size}" for size in range(8))

_TIMM_EFFICIENT = " ".join(f"timm-efficientnet-{size}" for size in (*(f"b{size}" for size in range(9)), "l2"))

_LITE = " ".join(f"timm-tf_efficientnet_lite{size}" for size in range(5))

_SMP_FAMILIES: Mapping[str, str] = {
    _RESNETS: "ResNet: residual blocks of convolutions, as torchvision has them.",
    _RESNEXTS: "ResNeXt: residual blocks whose convolutions are grouped, as torchvision has them.",
    "dpn68 dpn68b dpn92 dpn98 dpn107 dpn131": "DPN: residual and dense paths side by side.",
    "vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn": "VGG: plain 3 × 3 convolutions between poolings.",
    _SQUEEZED: "SENet: residual blocks that weigh their channels by squeeze and excitation.",
    "densenet121 densenet169 densenet201 densenet161": "DenseNet: each layer sees all before it in its block.",
    "inceptionresnetv2": "Inception-ResNet v2: branches of several kernel sizes, with residual connections.",
    "inceptionv4": "Inception v4: branches of several kernel sizes.",
    _EFFICIENT: "EfficientNet: inverted bottlenecks, of depth and width scaled together.",
    "mobilenet_v2": "MobileNet v2: inverted bottlenecks, as torchvision has them.",
    "xception": "Xception: depthwise separable convolutions throughout.",
    _TIMM_EFFICIENT: "EfficientNet of timm's blocks.",
    _LITE: "EfficientNet-Lite of timm's blocks: without squeeze and excitation.",
    "timm-skresnet18 timm-skresnet34 timm-skresnext50_32x4d": "SKNet: residual blocks that choose their kernel size.",
    "mit_b0 mit_b1 mit_b2 mit_b3 mit_b4 mit_b5": "Mix Transformer, of SegFormer: attention over overlapping patches.",
    "mobileone_s0 mobileone_s1 mobileone_s2 mobileone_s3 mobileone_s4": "MobileOne: branches that fold into one.",
}

SMP_ENCODERS: Mapping[str, str] = MappingProxyType(
    {name: line for names, line in _SMP_FAMILIES.items() for name in names.split()}
)
"""smp's own encoders, each with a description."""

UNDILATED = ("vgg", "densenet", "inception", "xception")
"""Prefixes of the encoders that smp cannot dilate, because they halve their grids by pooling."""

RENAMED_PREFIXES: Mapping[str, str] = MappingProxyType(
    {
        "tu-": "timm/",
        "timm-mobilenetv3": "timm/tf_mobilenetv3",
        **{f"timm-{family}": f"timm/{family}" for family in ("regnet", "res2", "resnest", "gernet")},
    }
)
"""Prefixes of smp's names for networks of timm, each with the prefix of timm's own name."""

_ENCODER_DEFAULTS: Mapping[str, Any] = {"depth": 5, "pretrained": False, "first_level": False}

_DILATED_DEFAULTS: Mapping[str, Any] = {**_ENCODER_DEFAULTS, "output_stride": 32}


def _validate_encoder_name(_: object, __: object, value: Any) -> None:
    for smps, timms in RENAMED_PREFIXES.items():
        if isinstance(value, str) and value.startswith(smps):
            raise ValueError(f"smp/{value} is a network of timm: write {timms}{value.removeprefix(smps)}")
    if value not in SMP_ENCODERS:
        raise ValueError(f"smp has no encoder {value!r}: {suggest(str(value), SMP_ENCODERS)}")


def _validate_output_stride(_: object, attribute: Attribute[Any], value: Any) -> None:
    if value is not None and (type(value) is not int or value not in (8, 16, 32)):
        raise ValueError(f"{attribute.name} must be 8, 16 or 32 (got {value!r})")


@frozen
class SmpEncoder(ProbedEncoder):
    """An encoder of segmentation_models_pytorch: `smp/NAME`.

    It returns the levels 1 to `depth`, level i at 1 / 2**i of the image's resolution, except for levels without
    channels (level 1 of the Mix Transformers). With `first_level` it also returns level 0: the image itself, or VGG's
    features at full resolution. `output_stride` 8 or 16 dilates the last levels instead of halving their grids.
    `pretrained` is true for the default weights of smp's models (`imagenet`, or the first set that smp lists), the
    name of a set (`imagenet`, `ssl`, `advprop`), the path of a file, or a `WeightsFile`.
    """

    source: ClassVar[str | None] = "smp"
    weights_bands: ClassVar[tuple[str, ...]] = RGB
    names: ClassVar[Mapping[str, str] | None] = SMP_ENCODERS
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {name: _ENCODER_DEFAULTS if name.startswith(UNDILATED) else _DILATED_DEFAULTS for name in SMP_ENCODERS}
    )

    name: str = field(validator=_validate_encoder_name)
    depth: int = field(default=5, validator=IntRange(3, 5), kw_only=True)
    pretrained: Pretrained = field(default=False, converter=convert_pretrained, validator=IS_PRETRAINED, kw_only=True)
    first_level: bool = field(default=False, validator=BOOL, kw_only=True)
    output_stride: int | None = field(default=None, validator=_validate_output_stride, kw_only=True)


SMP_DESCRIPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "Unet": "U-Net: enlarges the last map level by level, each time beside the next finer one.",
        "UnetPlusPlus": "U-Net++: a U-Net in which every level is joined to all those below it.",
        "MAnet": "MA-Net: a U-Net with attention over the last map's cells, and over channels at every level.",
        "Linknet": "LinkNet: doubles the last map level by level, and adds the next finer one.",
        "FPN": "A feature pyramid over the last four maps, at the grid of the finest of these.",
        "PSPNet": "Pyramid pooling of the last map, at its own grid.",
        "DeepLabV3": "Atrous spatial pyramid pooling of the last map, at its own grid.",
        "DeepLabV3Plus": "Atrous spatial pyramid pooling of the last map, beside the map of level 2, at its grid.",
        "PAN": "Pyramid attention on the last map, then gates up to level 2, at its grid.",
        "UPerNet": "UPerNet over the maps from level 2 on: pyramid pooling, a feature pyramid, at level 2's grid.",
        "Segformer": "SegFormer: all maps mixed per cell and brought to a quarter of the image's resolution.",
        "DPT": "DPT: tokens or maps of a ViT made a pyramid and fused, at half the image's resolution.",
    }
)
"""smp's decoders, each with a description. Level i has 1 / 2**i of the image's resolution."""

_UNET = "first_level center decoder_channels decoder_use_norm decoder_attention_type decoder_interpolation"

_MANET = "first_level decoder_channels decoder_use_norm decoder_pab_channels decoder_interpolation"

_FPN = "first_level decoder_pyramid_channels decoder_segmentation_channels decoder_merge_policy decoder_dropout"

_ASPP = "first_level decoder_atrous_rates decoder_aspp_dropout"

SMP_TABLE: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "Unet": list_arguments(_UNET),
        "UnetPlusPlus": list_arguments(_UNET),
        "MAnet": list_arguments(_MANET),
        "Linknet": list_arguments("first_level decoder_use_norm"),
        "FPN": list_arguments(f"{_FPN} decoder_interpolation"),
        "PSPNet": list_arguments("first_level psp_out_channels decoder_use_norm psp_dropout"),
        "DeepLabV3": list_arguments(_ASPP, decoder_channels=256, decoder_aspp_separable=False),
        "DeepLabV3Plus": list_arguments(_ASPP, decoder_channels=256, decoder_aspp_separable=True),
        "PAN": list_arguments("first_level", decoder_channels=32, decoder_interpolation="bilinear"),
        "UPerNet": list_arguments("first_level decoder_use_norm", decoder_channels=256),
        "Segformer": list_arguments("first_level", decoder_segmentation_channels=256),
        "DPT": list_arguments("decoder_readout decoder_intermediate_channels decoder_fusion_channels"),
    }
)
"""The arguments of each model class in smp 0.6 with their defaults, and the two that composer adds.

DPT has no `first_level`: it builds a pyramid from its inputs, whatever their levels. smp adds a center block to Unet
and UnetPlusPlus after a VGG encoder.
"""

SMP_NORMS = (None, "batchnorm", "identity", True, False)
"""smp has three more, which do not work by name alone: its initialisation fails on `instancenorm`, which has no weights
then, `layernorm` normalises the last axis instead of the channels, and `inplace` needs inplace_abn.
"""

SMP_INTERPOLATIONS = (None, "nearest", "nearest-exact", "bilinear", "bicubic", "area")


@frozen
class Smp(TableDecoder):
    """A decoder of segmentation_models_pytorch: `smp/NAME`, with smp's arguments. Initialised as smp does.

    smp counts levels from the image's resolution, level 0, and halves the resolution at each level. `first_level` is
    the level of the first map: 0, whose content smp drops (TerraTorch passes an encoder's finest map there); 1, the
    first level of most encoders; or 2, for encoders without a map at half resolution. By default it is 2 if the first
    map has a stride above 2, and 1 otherwise. After the image itself as level 0, a map at a quarter of its resolution
    is level 2, as in the Mix Transformers. `center` adds a center block, two convolutions on the last map, to Unet and
    UnetPlusPlus; by default they have one after smp's VGG encoders only, as in smp. With None an argument has smp's
    default. An argument that the decoder does not have is rejected.
    """

    source: ClassVar[str | None] = "smp"
    names: ClassVar[Mapping[str, str] | None] = SMP_DESCRIPTIONS
    table: ClassVar[Mapping[str, Mapping[str, Any]]] = SMP_TABLE
    reads_stride: ClassVar[bool] = True

    name: str = field(validator=Choice(tuple(SMP_TABLE)))
    first_level: int | None = declare_argument(None, IntRange(0, 2, optional=True))
    center: bool | None = declare_argument(None, optional(BOOL))
    decoder_channels: int | tuple[int, ...] | None = declare_list_argument(
        (256, 128, 64, 32, 16), NON_EMPTY, OPTIONAL_CHANNELS
    )
    decoder_use_norm: bool | str | None = declare_argument("batchnorm", Choice(SMP_NORMS))
    decoder_attention_type: str | None = declare_argument(None, Choice((None, "scse")))
    decoder_interpolation: str | None = declare_argument("nearest", Choice(SMP_INTERPOLATIONS))
    decoder_pab_channels: int | None = declare_argument(64, OPTIONAL_CHANNELS)
    decoder_pyramid_channels: int | None = declare_argument(256, OPTIONAL_CHANNELS)
    decoder_segmentation_channels: int | None = declare_argument(128, OPTIONAL_CHANNELS)
    decoder_merge_policy: str | None = declare_argument("add", Choice((None, "add", "cat")))
    decoder_dropout: float | None = declare_argument(0.2, optional(RATE))
    psp_out_channels: int | None = declare_argument(512, OPTIONAL_CHANNELS)
    psp_dropout: float | None = declare_argument(0.2, optional(RATE))
    decoder_atrous_rates: tuple[int, ...] | None = declare_list_argument(
        (12, 24, 36), require_length(3, "three dilations"), IntRange(1, 1024, optional=True)
    )
    decoder_aspp_separable: bool | None = declare_flag(default=False)
    decoder_aspp_dropout: float | None = declare_argument(0.5, optional(RATE))
    decoder_readout: str | None = declare_argument("cat", Choice((None, "cat", "add", "ignore")))
    decoder_intermediate_channels: tuple[int, ...] | None = declare_list_argument(
        (256, 512, 1024, 1024), NON_EMPTY, OPTIONAL_CHANNELS
    )
    decoder_fusion_channels: int | None = declare_argument(256, OPTIONAL_CHANNELS)

    def copy_with_encoder(self, encoder: Part | None) -> Self:
        """Return the decoder with `center` set from the name of the encoder, as in smp."""
        if self.center is not None or "center" not in self.defaults[self.name]:
            return self
        is_vgg = isinstance(encoder, SmpEncoder) and encoder.name.startswith("vgg")
        return evolve(self, center=True) if is_vgg else self


SMP_DECODER_ARGUMENTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        name: {argument: default for argument, default in known.items() if argument not in ("first_level", "center")}
        for name, known in Smp.defaults.items()
    }
)
"""The arguments of smp's own, with their defaults."""
