"""Heads: from features to what leaves a model. Names, arguments and defaults are TerraTorch's. No torch here."""

from __future__ import annotations

from attrs import field, frozen

from composer.parts.fields import (
    BOOL,
    CHANNELS,
    FINAL_ACTIVATIONS,
    OPTIONAL_CHANNELS,
    RATE,
    Choice,
    IntRange,
    convert_optional_int_list,
)
from composer.parts.kinds import Head


@frozen(kw_only=True)
class SegmentationHead(Head):
    """Class scores for each cell: 3 × 3 convolutions to the widths of `channel_list`, dropout, a 1 × 1 convolution."""

    num_classes: int = field(validator=CHANNELS)
    channel_list: tuple[int, ...] | None = field(
        default=None, converter=convert_optional_int_list, validator=OPTIONAL_CHANNELS
    )
    dropout: float = field(default=0.0, validator=RATE)


@frozen(kw_only=True)
class RegressionHead(Head):
    """Numbers for each cell: `learned_upscale_layers` doublings, 3 × 3 convolutions, dropout, a 1 × 1 convolution."""

    num_outputs: int = field(default=1, validator=CHANNELS)
    final_act: str | None = field(default=None, validator=Choice((None, *FINAL_ACTIVATIONS)))
    learned_upscale_layers: int = field(default=0, validator=IntRange(0, 6))
    channel_list: tuple[int, ...] | None = field(
        default=None, converter=convert_optional_int_list, validator=OPTIONAL_CHANNELS
    )
    batch_norm: bool = field(default=True, validator=BOOL)
    dropout: float = field(default=0.0, validator=RATE)


@frozen(kw_only=True)
class ClassificationHead(Head):
    """Class scores for the whole image: linear layers as wide as `dim_list`, dropout, a linear layer, the mean."""

    num_classes: int = field(validator=CHANNELS)
    dim_list: tuple[int, ...] | None = field(
        default=None, converter=convert_optional_int_list, validator=OPTIONAL_CHANNELS
    )
    dropout: float = field(default=0.0, validator=RATE)
    linear_after_pool: bool = field(default=False, validator=BOOL)


@frozen(kw_only=True)
class EmbeddingHead(Head):
    """Gives features as they are, however many there are and of whatever layout: as an output, a tuple of tensors.

    They are neither brought to the image's size nor cropped to it: they cover the padded image, whose sides
    `Typed.sizes` tells. With `rescale: false` the padding in front of the image is of whole cells, so that the image
    begins where a cell does.
    """


@frozen(kw_only=True)
class ScalarHead(Head):
    """Numbers for the whole image: linear layers as wide as `dim_list`, dropout, a linear layer, the mean."""

    num_outputs: int = field(validator=CHANNELS)
    dim_list: tuple[int, ...] | None = field(
        default=None, converter=convert_optional_int_list, validator=OPTIONAL_CHANNELS
    )
    dropout: float = field(default=0.0, validator=RATE)
    linear_after_pool: bool = field(default=False, validator=BOOL)
