"""Necks: from features to features. Names, arguments and defaults are TerraTorch's where it has them. No torch here."""

from __future__ import annotations

from typing import ClassVar

from attrs import field, frozen

from composer.parts.fields import BOOL, CHANNELS, INDEX, NON_EMPTY, Choice, IntRange, convert_int_list
from composer.parts.kinds import Neck

INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic", "area")


@frozen(kw_only=True)
class SelectIndices(Neck):
    """Picks features by position, in the order given; negative positions count from the end."""

    indices: tuple[int, ...] = field(converter=convert_int_list, validator=[NON_EMPTY, INDEX])


@frozen(kw_only=True)
class PermuteDims(Neck):
    """Reorders the axes of every feature: axis `i` of the output is axis `new_order[i]` of the input."""

    new_order: tuple[int, ...] = field(converter=convert_int_list, validator=[NON_EMPTY, IntRange(0, 4)])


@frozen(kw_only=True)
class InterpolateToPyramidal(Neck):
    """Makes a pyramid of n maps by interpolation: map i grows by `scale_factor` to the power n - i."""

    scale_factor: int = field(default=2, validator=IntRange(1, 8))
    mode: str = field(default="nearest", validator=Choice(INTERPOLATIONS))


@frozen(kw_only=True)
class MaxpoolToPyramidal(Neck):
    """Makes a pyramid of maps by max-pooling: map i shrinks by `kernel_size` to the power i, rounding down."""

    kernel_size: int = field(default=2, validator=IntRange(1, 8))


@frozen(kw_only=True)
class ReshapeTokensToImage(Neck):
    """Lays tokens out on the grid they came from, `(H / stride, W / stride)`; frames are folded into the channels.

    Tokens per frame, which have an axis of frames, become a map per frame. `remove_cls_token` drops the prefix, however
    many tokens it has. `effective_time_dim` states the frames that are expected, and `h` the rows; both are known
    without being stated. Maps, and maps per frame, pass through untouched.
    """

    reads_stride: ClassVar[bool] = True

    remove_cls_token: bool = field(default=True, validator=BOOL)
    effective_time_dim: int | None = field(default=None, validator=IntRange(1, 1024, optional=True))
    h: int | None = field(default=None, validator=IntRange(1, 16_384, optional=True))


@frozen(kw_only=True)
class AddBottleneckLayer(Neck):
    """Appends one map: the last one, its channels halved by a 1 × 1 convolution."""


@frozen(kw_only=True)
class LearnedInterpolateToPyramidal(Neck):
    """Makes a pyramid of exactly four maps: learned ×4 and ×2, unchanged, and max-pooled by 2."""


@frozen(kw_only=True)
class FeaturePyramidNetworkNeck(Neck):
    """Mixes every map with what the coarser ones say, finest map first; all have `out_channel` channels after it."""

    out_channel: int = field(default=256, validator=CHANNELS)


@frozen(kw_only=True)
class ConcatFeatures(Neck):
    """Joins branches level by level, one after the other along the channels."""


@frozen(kw_only=True)
class AddFeatures(Neck):
    """Joins branches level by level by adding them up."""
