"""The encoders of segmentation_models_pytorch: `smp/NAME`, and which of smp's arguments each has. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from attrs import Attribute, field, frozen

from composer.parts.fields import BOOL, IntRange
from composer.parts.kinds import ProbedEncoder
from composer.parts.weights import IsPretrained, Pretrained, convert_pretrained
from composer.problem import suggest

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
"""smp's own encoders, each with a line on what it is."""

UNDILATED = ("vgg", "densenet", "inception", "xception")
"""What the names of those begin with that smp makes no output stride for: they pool where they halve."""

RENAMED_PREFIXES: Mapping[str, str] = MappingProxyType(
    {
        "tu-": "timm/",
        "timm-mobilenetv3": "timm/tf_mobilenetv3",
        **{f"timm-{family}": f"timm/{family}" for family in ("regnet", "res2", "resnest", "gernet")},
    }
)
"""How the names begin by which smp takes a network of timm, and how the name that timm itself has for it begins."""

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


_PRETRAINED = IsPretrained("the name of a set of weights, ")


@frozen
class SmpEncoder(ProbedEncoder):
    """An encoder of segmentation_models_pytorch: `smp/NAME`.

    It gives the levels 1 to `depth`, level i at 1 / 2**i of the image's resolution, but for those that smp leaves
    without channels (level 1 of the Mix Transformers); with `first_level` also level 0, which is the image itself, or
    what the network makes of it at full resolution (VGG). `output_stride` 8 or 16 dilates the last levels instead of
    halving their grid. `pretrained` is true for the weights that smp's models take by default (`imagenet`, or the
    first set that smp lists), the name of a set (`imagenet`, `ssl`, `advprop`), the path of a file, or a `WeightsFile`.
    """

    source: ClassVar[str | None] = "smp"
    names: ClassVar[Mapping[str, str] | None] = SMP_ENCODERS
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {name: _ENCODER_DEFAULTS if name.startswith(UNDILATED) else _DILATED_DEFAULTS for name in SMP_ENCODERS}
    )

    renamed_prefixes: ClassVar[Mapping[str, str]] = MappingProxyType(
        {f"smp/{smps}": timms for smps, timms in RENAMED_PREFIXES.items()}
    )

    name: str = field(validator=_validate_encoder_name)
    depth: int = field(default=5, validator=IntRange(3, 5), kw_only=True)
    pretrained: Pretrained = field(default=False, converter=convert_pretrained, validator=_PRETRAINED, kw_only=True)
    first_level: bool = field(default=False, validator=BOOL, kw_only=True)
    output_stride: int | None = field(default=None, validator=_validate_output_stride, kw_only=True)
