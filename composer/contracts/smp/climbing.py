"""What smp's decoders give that climb from the last map to the finest, level by level. No torch here."""

from __future__ import annotations

from fractions import Fraction

from attrs import evolve

from composer.contracts.rules import Outcome, Promise, Refusal, doubling, finest_first, scaled, too_narrow, whole
from composer.contracts.smp.arguments import groups, widths
from composer.contracts.smp.levels import Levels, deep_enough, joining, maps_at
from composer.feature import Feature, Features
from composer.parts import Smp
from composer.parts.smp import arguments


def unet(decoder: Smp, levels: Levels) -> Outcome:
    """Every map is brought to the grid of the next finer one, and in the end to the image's: nothing has to be whole.

    A level that is not there has twice the cells of the first that is, so that one has to be.
    """
    channels = arguments(decoder)["decoder_channels"]
    return (
        deep_enough(levels, 1)
        or maps_at(levels, levels.since(1), "lies", pyramid=True)
        or widths(channels, levels.depth)
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
    stride = scaled(levels.since(1)[0].stride, Fraction(1, 2 ** max(levels.first, 1)))
    return Feature(channels=channels, stride=stride)


def unet_plus_plus(decoder: Smp, levels: Levels) -> Outcome:
    """Every map is doubled. The last block takes what the row before it gives, and one level makes no row."""
    return deep_enough(levels, 2) or _doubled(levels, arguments(decoder)["decoder_channels"])


def manet(decoder: Smp, levels: Levels) -> Outcome:
    """Every map is doubled."""
    return deep_enough(levels, 1) or _doubled(levels, arguments(decoder)["decoder_channels"])


def linknet(decoder: Smp, levels: Levels) -> Outcome:
    """Every map is doubled. The width in the end is a constant of smp's model."""
    return deep_enough(levels, 1) or _doubled(levels, None)


def _doubled(levels: Levels, channels: tuple[int, ...] | None) -> Outcome:
    """Every map is doubled and meets the next finer one as it is. Without widths to choose, the last is 32."""
    used = levels.since(1)
    return (
        maps_at(levels, used, pyramid=True)
        or (_quartered(used) if channels is None else widths(channels, levels.depth))
        or joining(levels, used)
        or Promise(features=[_missing(levels, 32 if channels is None else channels[-1])], sizes=whole(*used))
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
            repair="choose four levels or more with the encoder's out_indices",
        )
    used = levels.features[-4:]
    told = arguments(decoder)
    channels = told["decoder_segmentation_channels"]
    out = Feature(channels=channels * (4 if told["decoder_merge_policy"] == "cat" else 1), stride=used[0].stride)
    return (
        maps_at(levels, used, pyramid=True)
        or groups(channels)
        or joining(levels, used)
        or Promise(features=[out], sizes=whole(*used))
    )
