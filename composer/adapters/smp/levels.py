"""Feature maps as smp counts them, and rules on their strides."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise

from attrs import evolve, frozen

from composer.adapters.smp.parts import Smp
from composer.layouts import Features
from composer.parts.rules import (
    Rejection,
    is_map,
    require_finest_first,
    scale_stride,
    to_exact_grid,
)


@frozen
class Levels:
    """The inputs of a decoder as smp counts them: level i has 1 / 2**i of the image's resolution.

    `features` begin with level `first`. The levels before it are missing, which smp supports: it never uses the
    content of level 0, and some encoders have no level 1.
    """

    first: int
    features: Features

    @property
    def depth(self) -> int:
        """The number of the last level; smp calls it the depth of an encoder."""
        return self.first + len(self.features) - 1

    def get_channels(self, level: int) -> int:
        """Return the channels of a level, or 0 for a missing one."""
        return self.features[level - self.first].channels if level >= self.first else 0

    def select_from(self, level: int) -> Features:
        """Return the features of `level` and of all coarser levels."""
        return self.features[max(level - self.first, 0) :]

    def select_last(self, count: int) -> Features:
        """Return the last features."""
        return self.features[-count:]

    def select_ends(self) -> Features:
        """Return the features of level 2, or the first one that is there, and of the last level."""
        return (self.select_from(2)[0], self.features[-1])


def build_levels(decoder: Smp, features: Features) -> Levels:
    """Return the features as levels; the first is `first_level`, or follows from its stride if that is not set."""
    if decoder.first_level == 0 and _is_level_1_missing(features):
        # No decoder uses the image's content, so it is dropped.
        return Levels(2, features[1:])
    if decoder.first_level is not None:
        return Levels(decoder.first_level, features)
    stride = features[0].stride if features else None
    # As smp does with encoders that begin at stride 4, such as ConvNeXt and Swin.
    return Levels(2 if stride is not None and stride > 2 else 1, features)


def _is_level_1_missing(features: Features) -> bool:
    """Return whether the image itself comes before a map of stride 4, as Mix Transformers emit them."""
    return len(features) > 1 and all(map(is_map, features[:2])) and [f.stride for f in features[:2]] == [1, 4]


def is_doubling(strides: Iterable[Fraction]) -> bool:
    """Return whether each stride is exactly twice the one before it."""
    return all(coarser == 2 * finer for finer, coarser in pairwise(strides))


def require_joinable_maps(used: Features) -> Rejection | None:
    """Reject maps that do not match the next one doubled: unlike strides that merely double, this raises in smp."""
    strides = [scale_stride(f.stride, 1) for f in used]
    if rejection := require_finest_first(used):
        return evolve(rejection, kind="raises")
    if not is_doubling(strides):
        return Rejection(code="stride", kind="raises", expected="takes maps whose stride doubles from one to the next")
    offsets = [to_exact_grid(f).offset for f in used]
    if len(set(offsets)) == 1:
        return None
    return Rejection(
        code="stride",
        kind="raises",
        expected="takes maps of which each has exactly twice the cells of the next, so of one offset",
        got=f"offsets {', '.join(map(str, offsets))} at whole multiples of the strides",
        fix="use a decoder that brings each map to the size of the next finer one, such as UNetDecoder or smp/Unet",
    )
