"""Maps as smp counts them, level i at 1 / 2**i of the image, and rules that its decoders share. No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise

from attrs import evolve, frozen

from composer.contracts.rules import (
    Kind,
    Refusal,
    exactly,
    finest_first,
    is_map,
    maps_only,
    more_levels,
    pyramid_maps_only,
    towards_pyramid,
)
from composer.feature import Features, counted
from composer.parts import Smp


@frozen
class Levels:
    """The features of a decoder as levels: the first of them is level `first`.

    Levels before the first are not there. smp makes do without them: it never looks at the content of level 0, and
    knows encoders without a level 1.
    """

    first: int
    features: Features

    @property
    def depth(self) -> int:
        """The number of the last level, which smp calls the depth of an encoder."""
        return self.first + len(self.features) - 1

    def channels(self, level: int) -> int:
        """How many channels a level has: none where it is not there."""
        return self.features[level - self.first].channels if level >= self.first else 0

    def since(self, level: int) -> Features:
        """The features of `level` and of all coarser ones."""
        return self.features[max(level - self.first, 0) :]


def levels_of(decoder: Smp, features: Features) -> Levels:
    """The features as levels: as the decoder is told, or by the stride of the first.

    An encoder may give the image itself and no level 1, as the Mix Transformers do. The image is then passed over,
    since no decoder looks at its content.
    """
    if decoder.first_level == 0 and _no_level_1(features):
        return Levels(2, features[1:])
    if decoder.first_level is not None:
        return Levels(decoder.first_level, features)
    stride = features[0].stride if features else None
    # As smp does with encoders that begin at stride 4, such as ConvNeXt and Swin.
    return Levels(2 if stride is not None and stride > 2 else 1, features)


def _no_level_1(features: Features) -> bool:
    """Whether the first is at the image's own resolution, and the next at a quarter of it."""
    return len(features) > 1 and all(map(is_map, features[:2])) and [f.stride for f in features[:2]] == [1, 4]


def deep_enough(levels: Levels, least: int) -> Refusal | None:
    """Refuse fewer levels than a decoder can be made for."""
    if levels.depth >= least:
        return None
    needed = counted(least - levels.first + 1, "map")
    return Refusal(
        code="count",
        kind="impossible",
        expected=f"takes at least {needed} where the first is level {levels.first}",
        repair=more_levels("more levels"),
    )


def maps_at(levels: Levels, used: Features, *, pyramid: bool = False) -> Refusal | None:
    """Refuse what is no map among the features that are `used`."""
    return None if all(map(is_map, used)) else _maps_only(levels, pyramid=pyramid)


def maps_throughout(levels: Levels, kind: Kind = "policy", *, pyramid: bool = False) -> Refusal | None:
    """Refuse what is no map among the features that a decoder passes over, where nothing else is wrong."""
    refusal = _maps_only(levels, pyramid=pyramid)
    return None if refusal is None else evolve(refusal, kind=kind)


def _maps_only(levels: Levels, *, pyramid: bool) -> Refusal | None:
    return (pyramid_maps_only if pyramid else maps_only)(levels.features)


def joining(levels: Levels, used: Features) -> Refusal | None:
    """Refuse maps of which each is not exactly twice as large as the next: they are doubled, and met by the next."""
    strides = [f.stride for f in used if f.stride is not None]
    if doubles(strides):
        return one_offset(used)
    if strides != sorted(strides):
        return _upside_down(levels, used)
    return Refusal(
        code="stride",
        kind="impossible",
        expected="takes maps whose stride doubles from one to the next",
        repair=_once_each(levels) or towards_pyramid(levels.features),
    )


def one_offset(used: Features) -> Refusal | None:
    """Refuse maps of which one loses more cells at the borders than another: doubled, it does not meet that one."""
    offsets = [exactly(f).offset for f in used]
    if len(set(offsets)) == 1:
        return None
    return Refusal(
        code="offset",
        kind="impossible",
        expected="takes maps of which each has exactly twice the cells of the next, so of one offset",
        got=f"offsets {', '.join(map(str, offsets))} at whole multiples of the strides",
        repair="use a decoder that brings each map to the size of the next finer one, such as UNetDecoder or smp/Unet",
    )


def _upside_down(levels: Levels, used: Features) -> Refusal:
    throughout = all(map(is_map, levels.features))
    refusal = finest_first(levels.features if throughout else used)
    assert refusal is not None
    return evolve(refusal, kind="impossible", repair=refusal.repair if throughout else None)


def doubles(strides: Iterable[Fraction]) -> bool:
    """Whether each stride is exactly twice the one before it."""
    return all(coarser == 2 * finer for finer, coarser in pairwise(strides))


def _once_each(levels: Levels) -> str | None:
    """The neck that leaves one map of each stride, where these double: without what `AddBottleneckLayer` appends."""
    strides = [f.stride for f in levels.features]
    once = sorted({strides.index(stride) for stride in strides})
    kept = [stride for stride in (strides[index] for index in once) if stride is not None]
    fewer = 1 < len(once) < len(strides) and len(kept) == len(once)
    return f"necks: [SelectIndices: {{indices: {once}}}]" if fewer and doubles(kept) else None
