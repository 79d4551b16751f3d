"""Which levels smp's decoders take, and the arguments they know."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise
from typing import Any

from attrs import asdict, evolve, frozen

from composer.adapters.smp.parts import Smp
from composer.errors import suggest
from composer.layouts import Features, format_count
from composer.parts.rules import (
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


FPN_GROUPS = 32
"""The groups in which FPN normalises."""


SCSE_REDUCTION = 16
"""How many channels become one where scse looks at the channels."""


def require_known_smp_arguments(decoder: Smp) -> Rejection | None:
    """Refuse an argument that smp's decoder of this name has not: one of the others has it."""
    known = decoder.defaults[decoder.name]
    for name, value in asdict(decoder, recurse=False).items():
        if name != "name" and name not in known and value is not None:
            return Rejection(
                code="argument",
                kind="raises",
                expected=f"has no argument {name}",
                got=_format_value(value),
                repair=suggest(name, known),
                about=name,
            )
    return None


def require_decoder_widths(channels: Any, levels: Levels) -> Rejection | None:
    """Refuse `decoder_channels` that are no list of one width for each level below the last."""
    depth = levels.depth
    repair = f"decoder_channels: {[max(256 // 2**level, 16) for level in range(depth)]}"
    if not isinstance(channels, tuple):
        expected, got = "takes a list of widths", _format_value(channels)
    elif len(channels) != depth:
        expected = f"has {format_count(len(channels), 'width')} in decoder_channels, one for each level it climbs"
        got = f"{format_count(depth, 'level')} from the last map, level {depth}, to level 0"
        if len(channels) == depth - 1 and levels.first == 1 and levels.features[0].stride == 1:
            # The first map is at the image's resolution, so more likely level 0 than level 1.
            repair = "first_level: 0"
    else:
        return None
    return Rejection(code="count", kind="raises", expected=expected, got=got, repair=repair, about="decoder_channels")


def require_single_width(channels: Any) -> Rejection | None:
    """Refuse `decoder_channels` that are no single width."""
    if not isinstance(channels, tuple):
        return None
    return Rejection(
        code="count",
        kind="raises",
        expected="takes one width",
        got=_format_value(channels),
        repair=f"decoder_channels: {channels[-1]}",
        about="decoder_channels",
    )


def require_fpn_groups(channels: int) -> Rejection | None:
    """Refuse a width that does not fall into the groups of FPN's normalisation."""
    if channels % FPN_GROUPS == 0:
        return None
    return Rejection(
        code="channels",
        kind="raises",
        expected=f"normalises in {FPN_GROUPS} groups, so decoder_segmentation_channels must be a multiple of {FPN_GROUPS}",
        got=str(channels),
        repair=f"decoder_segmentation_channels: {-(-channels // FPN_GROUPS) * FPN_GROUPS}",
        about="decoder_segmentation_channels",
    )


def require_scse_widths(attention: str | None, *channels: int) -> Rejection | None:
    """Refuse attention in blocks so narrow that the squeeze leaves no channel. A block of no channels is left out."""
    narrow = [width for width in channels if 0 < width < SCSE_REDUCTION]
    if attention is None or not narrow:
        return None
    return Rejection(
        code="channels",
        kind="raises",
        expected=f"squeezes channels by {SCSE_REDUCTION} in each block with scse, so a block must have that many",
        got=f"one of {min(narrow)}",
        repair="decoder_attention_type: null",
        about="decoder_attention_type",
    )


def _format_value(value: Any) -> str:
    """A value as a file has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value) if isinstance(value, tuple) else value)
