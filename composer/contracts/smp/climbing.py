"""What smp's decoders give that climb from the last map to the finest, level by level. No torch here."""

from __future__ import annotations

from fractions import Fraction

from attrs import evolve

from composer.contracts.rules import (
    Outcome,
    Promise,
    Refusal,
    doubling,
    exactly,
    finest_first,
    more_levels,
    scaled,
    too_narrow,
    whole,
)
from composer.contracts.smp.arguments import groups, squeezable, widths
from composer.contracts.smp.levels import Levels, deep_enough, joining, maps_at, maps_throughout
from composer.feature import Feature, Features
from composer.parts import Smp
from composer.parts.smp import arguments

LINKNET_CHANNELS = 32
"""The width that LinkNet ends in, a constant of smp's model."""


def unet(decoder: Smp, levels: Levels) -> Outcome:
    """Every map is brought to the grid of the next finer one, and in the end to the image's: nothing has to be whole.

    A level that is not there has twice the cells of the first that is, so that one has to be.
    """
    told = arguments(decoder)
    channels = told["decoder_channels"]
    return (
        deep_enough(levels, 1)
        or maps_at(levels, levels.since(1), pyramid=True)
        or widths(channels, levels)
        or squeezable(told["decoder_attention_type"], *channels, *_first_join(levels))
        or maps_throughout(levels, "lies", pyramid=True)
        or finest_first(levels.features)
        or doubling(levels.features)
        or _enlarged(levels, channels[-1])
    )


def _enlarged(levels: Levels, channels: int) -> Promise:
    first = levels.features[0]
    if levels.first == 0:
        return Promise(features=[evolve(first, channels=channels)])
    return Promise(features=[_missing(levels, channels)], sizes=whole(first))


def _missing(levels: Levels, channels: int) -> Feature:
    """A map at level 0, as seen from the finest of the maps at level 1 and on."""
    finest = exactly(levels.since(1)[0])
    return evolve(finest, channels=channels, stride=scaled(finest.stride, Fraction(1, 2 ** max(levels.first, 1))))


def _first_join(levels: Levels) -> list[int]:
    """The channels of the last map beside the next finer one: later blocks join what is as wide as the one before."""
    return [levels.channels(levels.depth) + levels.channels(levels.depth - 1)] if levels.depth > 1 else []


def unet_plus_plus(decoder: Smp, levels: Levels) -> Outcome:
    """Every map is doubled. The last block takes what the row before it gives, and one level makes no row."""
    told = arguments(decoder)
    channels = told["decoder_channels"]
    # The blocks between the levels are as wide as the levels.
    between = [levels.channels(level) for level in range(1, levels.depth - 1)]
    return (
        deep_enough(levels, 2)
        or _meeting(levels)
        or widths(channels, levels)
        or squeezable(told["decoder_attention_type"], *channels, *_first_join(levels), *between)
        or _doubled(levels, channels[-1])
    )


def manet(decoder: Smp, levels: Levels) -> Outcome:
    """Every map is doubled."""
    channels = arguments(decoder)["decoder_channels"]
    return deep_enough(levels, 1) or _meeting(levels) or widths(channels, levels) or _doubled(levels, channels[-1])


def linknet(decoder: Smp, levels: Levels) -> Outcome:
    """Every map is doubled."""
    return deep_enough(levels, 1) or _quartered(levels.since(1)) or _doubled(levels, LINKNET_CHANNELS)


def _meeting(levels: Levels) -> Refusal | None:
    """Refuse maps that do not meet. Before their widths are counted, because of those there may be fewer."""
    return maps_at(levels, levels.since(1), pyramid=True) or joining(levels, levels.since(1))


def _doubled(levels: Levels, channels: int) -> Outcome:
    """Every map is doubled and meets the next finer one as it is."""
    return (
        _meeting(levels)
        or maps_throughout(levels, pyramid=True)
        or Promise(features=[_missing(levels, channels)], sizes=whole(*levels.since(1)))
    )


def _quartered(used: Features) -> Refusal | None:
    if all(f.channels >= 4 for f in used):
        return None
    return too_narrow("quarters the channels of each map, so they need at least 4")


def fpn(decoder: Smp, levels: Levels) -> Outcome:
    """The last four maps and no more: with three, smp's own would take the image itself for the fourth."""
    if len(levels.features) < 4:
        return Refusal(
            code="count",
            kind="impossible",
            expected="takes at least 4 maps",
            repair=more_levels("four levels or more"),
        )
    used = levels.features[-4:]
    told = arguments(decoder)
    channels = told["decoder_segmentation_channels"]
    # What is joined is one map for each of the four, or their sum.
    joined = 4 if told["decoder_merge_policy"] == "cat" else 1
    return (
        maps_at(levels, used, pyramid=True)
        or groups(channels)
        or joining(levels, used)
        or maps_throughout(levels, pyramid=True)
        or Promise(features=[evolve(exactly(used[0]), channels=joined * channels)], sizes=whole(*used))
    )
