"""Maps as smp counts them, level i at 1 / 2**i of the image, and rules that its decoders share. No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise

from attrs import evolve, frozen

from composer.contracts.rules import (
    Kind,
    Rejection,
    is_map,
    require_finest_first,
    require_maps,
    require_pyramid_maps,
    suggest_more_levels,
    suggest_necks_to_pyramid,
    to_exact_grid,
)
from composer.feature import Features, format_count
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


def build_levels(decoder: Smp, features: Features) -> Levels:
    """The features as levels: as the decoder is told, or by the stride of the first.

    An encoder may give the image itself and no level 1, as the Mix Transformers do. The image is then passed over,
    since no decoder looks at its content.
    """
    if decoder.first_level == 0 and _is_level_1_missing(features):
        return Levels(2, features[1:])
    if decoder.first_level is not None:
        return Levels(decoder.first_level, features)
    stride = features[0].stride if features else None
    # As smp does with encoders that begin at stride 4, such as ConvNeXt and Swin.
    return Levels(2 if stride is not None and stride > 2 else 1, features)


def _is_level_1_missing(features: Features) -> bool:
    """Whether the first is at the image's own resolution, and the next at a quarter of it."""
    return len(features) > 1 and all(map(is_map, features[:2])) and [f.stride for f in features[:2]] == [1, 4]


def require_depth(levels: Levels, least: int) -> Rejection | None:
    """Refuse fewer levels than a decoder can be made for."""
    if levels.depth >= least:
        return None
    needed = format_count(least - levels.first + 1, "map")
    return Rejection(
        code="count",
        kind="raises",
        expected=f"takes at least {needed} where the first is level {levels.first}",
        repair=suggest_more_levels("more levels"),
    )


def require_used_maps(levels: Levels, used: Features, *, pyramid: bool = False) -> Rejection | None:
    """Refuse what is no map among the features that are `used`."""
    return None if all(map(is_map, used)) else _require_level_maps(levels, pyramid=pyramid)


def require_all_maps(levels: Levels, kind: Kind = "policy", *, pyramid: bool = False) -> Rejection | None:
    """Refuse what is no map among the features that a decoder passes over, where nothing else is wrong."""
    refusal = _require_level_maps(levels, pyramid=pyramid)
    return None if refusal is None else evolve(refusal, kind=kind)


def _require_level_maps(levels: Levels, *, pyramid: bool) -> Rejection | None:
    return (require_pyramid_maps if pyramid else require_maps)(levels.features)


def require_joinable_maps(levels: Levels, used: Features) -> Rejection | None:
    """Refuse maps of which each is not exactly twice as large as the next: they are doubled, and met by the next."""
    strides = [f.stride for f in used if f.stride is not None]
    if is_doubling(strides):
        return require_one_offset(used)
    if strides != sorted(strides):
        return _reject_coarsest_first(levels, used)
    return Rejection(
        code="stride",
        kind="raises",
        expected="takes maps whose stride doubles from one to the next",
        repair=_suggest_unique_strides(levels) or suggest_necks_to_pyramid(levels.features),
    )


def require_one_offset(used: Features) -> Rejection | None:
    """Refuse maps of which one loses more cells at the borders than another: doubled, it does not meet that one."""
    offsets = [to_exact_grid(f).offset for f in used]
    if len(set(offsets)) == 1:
        return None
    return Rejection(
        code="offset",
        kind="raises",
        expected="takes maps of which each has exactly twice the cells of the next, so of one offset",
        got=f"offsets {', '.join(map(str, offsets))} at whole multiples of the strides",
        repair="use a decoder that brings each map to the size of the next finer one, such as UNetDecoder or smp/Unet",
    )


def _reject_coarsest_first(levels: Levels, used: Features) -> Rejection:
    throughout = all(map(is_map, levels.features))
    refusal = require_finest_first(levels.features if throughout else used)
    assert refusal is not None
    return evolve(refusal, kind="raises", repair=refusal.repair if throughout else None)


def is_doubling(strides: Iterable[Fraction]) -> bool:
    """Whether each stride is exactly twice the one before it."""
    return all(coarser == 2 * finer for finer, coarser in pairwise(strides))


def _suggest_unique_strides(levels: Levels) -> str | None:
    """The neck that leaves one map of each stride, where these double: without what `AddBottleneckLayer` appends."""
    strides = [f.stride for f in levels.features]
    once = sorted({strides.index(stride) for stride in strides})
    kept = [stride for stride in (strides[index] for index in once) if stride is not None]
    fewer = 1 < len(once) < len(strides) and len(kept) == len(once)
    return f"necks: [SelectIndices: {{indices: {once}}}]" if fewer and is_doubling(kept) else None
