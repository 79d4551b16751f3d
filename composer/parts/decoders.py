"""Decoders: from features to one map. Names, arguments and defaults are TerraTorch's. No torch here."""

from __future__ import annotations

from attrs import field, frozen

from composer.parts.fields import (
    ACTIVATIONS,
    BOOL,
    CHANNELS,
    INDEX,
    NON_EMPTY,
    OPTIONAL_CHANNELS,
    Choice,
    IntRange,
    convert_int_list,
)
from composer.parts.kinds import Decoder

UNET_NORMS = ("batchnorm", "instancenorm", "identity", True, False)


@frozen(kw_only=True)
class IdentityDecoder(Decoder):
    """Passes one feature on as it is."""

    out_index: int = field(default=-1, validator=INDEX)


@frozen(kw_only=True)
class FCNDecoder(Decoder):
    """Takes one map and doubles it `num_convs` times, with a transposed and a 3 × 3 convolution each time."""

    channels: int = field(default=256, validator=CHANNELS)
    num_convs: int = field(default=4, validator=IntRange(1, 8))
    in_index: int = field(default=-1, validator=INDEX)


@frozen(kw_only=True)
class UNetDecoder(Decoder):
    """U-Net over a pyramid, finest map first: `channels` has one entry for each map. Initialised as smp does."""

    channels: tuple[int, ...] = field(converter=convert_int_list, validator=[NON_EMPTY, CHANNELS])
    use_batchnorm: bool | str = field(default="batchnorm", validator=Choice(UNET_NORMS))
    attention_type: str | None = field(default=None, validator=Choice((None, "scse")))


@frozen(kw_only=True)
class UperNetDecoder(Decoder):
    """UPerNet: pyramid pooling on the last map, then a feature pyramid, at the grid of the first map.

    `scale_modules` puts LearnedInterpolateToPyramidal in front, with its weights inside the decoder.
    """

    pool_scales: tuple[int, ...] = field(default=(1, 2, 3, 6), converter=convert_int_list, validator=IntRange(1, 64))
    channels: int = field(default=256, validator=CHANNELS)
    align_corners: bool = field(default=True, validator=BOOL)
    scale_modules: bool = field(default=False, validator=BOOL)


@frozen(kw_only=True)
class LinearDecoder(Decoder):
    """One transposed convolution from a map to class scores, `upsampling_size` times as large. Needs no head.

    `includes_head: false` says that a head follows all the same.
    """

    num_classes: int = field(validator=CHANNELS)
    upsampling_size: int = field(validator=IntRange(1, 64))
    in_index: int = field(default=-1, validator=INDEX)
    includes_head: bool = field(default=True, validator=BOOL)


@frozen(kw_only=True)
class MLPDecoder(Decoder):
    """Concatenates maps (or vectors) of one size and mixes their channels per cell: to `channels`, then to `out_dim`.

    `channels: null` is the width of input `out_index`, and `out_dim: null` leaves the last layer out. With both,
    this is what TerraTorch's decoder computes whatever it is told.
    """

    channels: int | None = field(default=100, validator=OPTIONAL_CHANNELS)
    out_dim: int | None = field(default=100, validator=OPTIONAL_CHANNELS)
    activation: str = field(default="ReLU", validator=Choice(ACTIVATIONS))
    out_index: int = field(default=-1, validator=INDEX)
