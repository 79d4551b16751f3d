"""Heads: declarations and contracts."""

from __future__ import annotations

from attrs import evolve, field, frozen

from composer.layouts import MAP, VECTOR, Feature, Features
from composer.parts.base import Head, contract
from composer.parts.rules import ContractResult, Outputs, Rejection, require_layout, require_maps, upsample_map
from composer.parts.validators import (
    BOOL,
    CHANNELS,
    FINAL_ACTIVATIONS,
    OPTIONAL_CHANNELS,
    RATE,
    Choice,
    IntRange,
    convert_optional_int_list,
)


@frozen(kw_only=True)
class SegmentationHead(Head):
    """Compute class scores per cell: 3 × 3 convolutions of widths `channel_list`, dropout, a last convolution.

    The last convolution has `kernel_size` cells a side. Its scores are enlarged by the factor `upsampling`, bilinearly
    and with the centres of the corner cells aligned (`align_corners`), and `final_act` follows: the order of smp's
    heads. `batch_norm` normalises each of the 3 × 3 convolutions.
    """

    num_classes: int = field(validator=CHANNELS)
    channel_list: tuple[int, ...] | None = field(
        default=None, converter=convert_optional_int_list, validator=OPTIONAL_CHANNELS
    )
    batch_norm: bool = field(default=False, validator=BOOL)
    dropout: float = field(default=0.0, validator=RATE)
    kernel_size: int = field(default=1, validator=Choice((1, 3, 5, 7)))
    upsampling: int = field(default=1, validator=IntRange(1, 64))
    final_act: str | None = field(default=None, validator=Choice((None, *FINAL_ACTIVATIONS)))


@contract.register(SegmentationHead)
def _(head: SegmentationHead, features: Features) -> ContractResult:
    return _infer_upsampled(features, head.num_classes, head.upsampling)


@frozen(kw_only=True)
class RegressionHead(Head):
    """Compute numbers per cell: `learned_upscale_layers` doublings, 3 × 3 convolutions, dropout, 1 × 1 convolution."""

    num_outputs: int = field(default=1, validator=CHANNELS)
    final_act: str | None = field(default=None, validator=Choice((None, *FINAL_ACTIVATIONS)))
    learned_upscale_layers: int = field(default=0, validator=IntRange(0, 6))
    channel_list: tuple[int, ...] | None = field(
        default=None, converter=convert_optional_int_list, validator=OPTIONAL_CHANNELS
    )
    batch_norm: bool = field(default=True, validator=BOOL)
    dropout: float = field(default=0.0, validator=RATE)


@contract.register(RegressionHead)
def _(head: RegressionHead, features: Features) -> ContractResult:
    return _infer_upsampled(features, head.num_outputs, 2**head.learned_upscale_layers)


@frozen(kw_only=True)
class ClassificationHead(Head):
    """Compute class scores of an image: linear layers of widths `dim_list`, dropout, a linear layer, the mean.

    `linear_after_pool` takes the mean first, `pooling` is `mean` or `max`, and `final_act` comes last.
    """

    num_classes: int = field(validator=CHANNELS)
    dim_list: tuple[int, ...] | None = field(
        default=None, converter=convert_optional_int_list, validator=OPTIONAL_CHANNELS
    )
    dropout: float = field(default=0.0, validator=RATE)
    linear_after_pool: bool = field(default=False, validator=BOOL)
    pooling: str = field(default="mean", validator=Choice(("mean", "max")))
    final_act: str | None = field(default=None, validator=Choice((None, *FINAL_ACTIVATIONS)))


@frozen(kw_only=True)
class ScalarHead(Head):
    """Compute numbers of an image: linear layers of widths `dim_list`, dropout, a linear layer, the mean."""

    num_outputs: int = field(validator=CHANNELS)
    dim_list: tuple[int, ...] | None = field(
        default=None, converter=convert_optional_int_list, validator=OPTIONAL_CHANNELS
    )
    dropout: float = field(default=0.0, validator=RATE)
    linear_after_pool: bool = field(default=False, validator=BOOL)


@contract.register(ClassificationHead)
@contract.register(ScalarHead)
def _(head: ClassificationHead | ScalarHead, features: Features) -> ContractResult:
    takes = f'channels second: a map "{MAP}" or a vector "{VECTOR}"'
    outputs = head.num_classes if isinstance(head, ClassificationHead) else head.num_outputs
    return (
        require_layout(features, lambda f: f.axes.startswith(VECTOR), takes)
        or _require_one_feature(features)
        or Outputs(features=[Feature(channels=outputs, stride=None, axes=VECTOR)])
    )


@frozen(kw_only=True)
class EmbeddingHead(Head):
    """Return features unchanged, of any number and layout: the output is a tuple of tensors.

    They are neither rescaled nor cropped to the image: they cover the padded image, whose size follows from
    `TypedGraph.sizes`. With `rescale: false` the padding before the image is whole cells, so the image begins at the
    border of a cell.
    """


@contract.register(EmbeddingHead)
def _(head: EmbeddingHead, features: Features) -> ContractResult:
    if features:
        return Outputs(features=features)
    return Rejection(
        code="count", kind="policy", expected="takes at least one feature, or there is nothing to give", got="none"
    )


def _infer_upsampled(features: Features, channels: int, factor: int) -> ContractResult:
    """Return one map of `channels`, `factor` times as large as the only input."""
    if rejection := require_maps(features) or _require_one_feature(features):
        return rejection
    if factor > 1:
        return upsample_map(features[0], channels, factor)
    return Outputs(features=[evolve(features[0], channels=channels)])


def _require_one_feature(features: Features) -> Rejection | None:
    if len(features) == 1:
        return None
    return Rejection(code="count", expected="takes one feature", fix="put a decoder before it: IdentityDecoder")
