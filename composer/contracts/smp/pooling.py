"""What smp's decoders give that pool the last map, or bring all maps to one grid at once. No torch here."""

from __future__ import annotations

from attrs import evolve

from composer.contracts.rules import (
    Outcome,
    Promise,
    Refusal,
    at_least,
    both,
    exactly,
    finest_first,
    is_map,
    maps_only,
    scaled,
    too_narrow,
    whole,
)
from composer.contracts.smp.arguments import width
from composer.contracts.smp.levels import Levels, deep_enough, maps_at, maps_throughout
from composer.parts import Smp
from composer.parts.smp import arguments
from composer.sizes import ANY

LEAST_CELLS = 8
"""PAN halves the last map three times."""


def pspnet(decoder: Smp, levels: Levels) -> Outcome:
    """The last map's grid. Four pooled maps of a quarter of its channels stand beside it."""
    last = levels.features[-1:]
    if refusal := maps_only(last):
        return refusal
    if last[0].channels % 4:
        return too_narrow("splits the channels of the last map into quarters, so they must be a multiple of 4")
    return Promise(features=[evolve(last[0], channels=arguments(decoder)["psp_out_channels"])])


def deeplab(decoder: Smp, levels: Levels) -> Outcome:
    """The last map's grid."""
    channels = arguments(decoder)["decoder_channels"]
    last = levels.features[-1:]
    return maps_only(last) or width(channels) or Promise(features=[evolve(last[0], channels=channels)])


def deeplab_plus(decoder: Smp, levels: Levels) -> Outcome:
    """The grid of level 2, which the last map is enlarged to by a whole factor."""
    if refusal := deep_enough(levels, 3):
        return refusal
    fine, *_, last = levels.since(2)
    channels = arguments(decoder)["decoder_channels"]
    return (
        maps_at(levels, (fine, last))
        or width(channels)
        or _meeting(levels)
        or maps_throughout(levels)
        or Promise(features=[evolve(exactly(fine), channels=channels)], sizes=whole(fine, last))
    )


def _meeting(levels: Levels) -> Refusal | None:
    """The last map is enlarged by 4 or 2 and meets the map of level 2. smp has the encoder keep its stride for that."""
    if _meets(levels):
        return None
    counts = range(len(levels.features) - 1, 3 - levels.first, -1) if all(map(is_map, levels.features)) else ()
    cut = next((count for count in counts if _meets(Levels(levels.first, levels.features[:count]))), None)
    return Refusal(
        code="stride",
        kind="impossible",
        expected=f"enlarges the last map by {'4 or 2' if levels.depth > 3 else '2'}, to meet the map of level 2",
        repair=f"necks: [SelectIndices: {{indices: {list(range(cut))}}}]" if cut else None,
    )


def _meets(levels: Levels) -> bool:
    fine, *_, last = levels.since(2)
    factor = scaled(last.stride, 1) / scaled(fine.stride, 1)
    return exactly(fine).offset == exactly(last).offset and (factor == 2 or (factor == 4 and levels.depth > 3))


def pan(decoder: Smp, levels: Levels) -> Outcome:
    """The grid of level 2: every map is brought to the grid of the next finer one, so nothing has to be whole."""
    channels = arguments(decoder)["decoder_channels"]
    used = levels.since(2)
    return (
        deep_enough(levels, 3)
        or maps_at(levels, used)
        or width(channels)
        or maps_throughout(levels)
        or _not_too_deep(levels)
        or finest_first(levels.features)
        or Promise(features=[evolve(used[0], channels=channels)], sizes=at_least(used[-1], LEAST_CELLS))
    )


def _not_too_deep(levels: Levels) -> Refusal | None:
    if levels.depth <= 5:
        return None
    return Refusal(
        code="count",
        kind="policy",
        expected="has gates for the levels up to 5, and would pass over those between them and the last",
        got=f"level {levels.depth}",
        repair=f"necks: [SelectIndices: {{indices: {list(range(6 - levels.first))}}}]",
    )


def upernet(decoder: Smp, levels: Levels) -> Outcome:
    """The grid of level 2: every map is brought to the grid of the next finer one, and all of them to the finest."""
    channels = arguments(decoder)["decoder_channels"]
    used = levels.since(2)
    return (
        deep_enough(levels, 3)
        or maps_at(levels, used)
        or width(channels)
        or maps_throughout(levels)
        or finest_first(levels.features)
        or Promise(features=[evolve(used[0], channels=channels)])
    )


def segformer(decoder: Smp, levels: Levels) -> Outcome:
    """Every map is brought to a quarter of level 0: floor(h / 4), and level 0 has 1, 2 or 4 times the first map's."""
    if refusal := (
        deep_enough(levels, 3)
        or maps_at(levels, levels.since(1))
        or maps_throughout(levels, "lies")
        or finest_first(levels.features)
    ):
        return refusal
    first = evolve(levels.features[0], channels=arguments(decoder)["decoder_segmentation_channels"])
    if levels.first == 2:
        return Promise(features=[first])
    out = evolve(first, stride=scaled(first.stride, 4 // 2**levels.first), rounding="floor")
    # floor(floor(x) / 2) = floor(x / 2), so one that rounds down goes on doing so; one that rounds up has to be whole.
    return Promise(features=[out], sizes=both(whole(first) if first.rounding == "ceil" else ANY, at_least(out, 1)))
