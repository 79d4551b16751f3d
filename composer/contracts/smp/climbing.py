"""What smp's decoders give that climb from the last map to the finest, level by level. No torch here."""

from __future__ import annotations

from fractions import Fraction

from attrs import evolve

from composer.contracts.rules import (
    ContractResult,
    Outputs,
    Rejection,
    compute_exact_multiple,
    reject_narrow_maps,
    require_doubling_strides,
    require_finest_first,
    scale_stride,
    suggest_more_levels,
    to_exact_grid,
)
from composer.contracts.smp.arguments import require_decoder_widths, require_fpn_groups, require_scse_widths
from composer.contracts.smp.levels import (
    Levels,
    require_all_maps,
    require_depth,
    require_joinable_maps,
    require_used_maps,
)
from composer.feature import Feature, Features
from composer.parts import Smp
from composer.parts.smp import resolve_smp_arguments

LINKNET_CHANNELS = 32
"""The width that LinkNet ends in, a constant of smp's model."""


def infer_unet(decoder: Smp, levels: Levels) -> ContractResult:
    """Every map is brought to the grid of the next finer one, and in the end to the image's: nothing has to be whole.

    A level that is not there has twice the cells of the first that is, so that one has to be.
    """
    told = resolve_smp_arguments(decoder)
    channels = told["decoder_channels"]
    return (
        require_depth(levels, 1)
        or require_used_maps(levels, levels.since(1), pyramid=True)
        or require_decoder_widths(channels, levels)
        or require_scse_widths(told["decoder_attention_type"], *channels, *_list_first_join_channels(levels))
        or require_all_maps(levels, "wrong_output", pyramid=True)
        or require_finest_first(levels.features)
        or require_doubling_strides(levels.features)
        or _build_enlarged_outputs(levels, channels[-1])
    )


def _build_enlarged_outputs(levels: Levels, channels: int) -> Outputs:
    first = levels.features[0]
    if levels.first == 0:
        return Outputs(features=[evolve(first, channels=channels)])
    return Outputs(features=[_build_level_0_map(levels, channels)], sizes=compute_exact_multiple(first))


def _build_level_0_map(levels: Levels, channels: int) -> Feature:
    """A map at level 0, as seen from the finest of the maps at level 1 and on."""
    finest = to_exact_grid(levels.since(1)[0])
    return evolve(finest, channels=channels, stride=scale_stride(finest.stride, Fraction(1, 2 ** max(levels.first, 1))))


def _list_first_join_channels(levels: Levels) -> list[int]:
    """The channels of the last map beside the next finer one: later blocks join what is as wide as the one before."""
    return [levels.channels(levels.depth) + levels.channels(levels.depth - 1)] if levels.depth > 1 else []


def infer_unet_plus_plus(decoder: Smp, levels: Levels) -> ContractResult:
    """Every map is doubled. The last block takes what the row before it gives, and one level makes no row."""
    told = resolve_smp_arguments(decoder)
    channels = told["decoder_channels"]
    # The blocks between the levels are as wide as the levels.
    between = [levels.channels(level) for level in range(1, levels.depth - 1)]
    return (
        require_depth(levels, 2)
        or _require_doubling_maps(levels)
        or require_decoder_widths(channels, levels)
        or require_scse_widths(told["decoder_attention_type"], *channels, *_list_first_join_channels(levels), *between)
        or _infer_doubled(levels, channels[-1])
    )


def infer_manet(decoder: Smp, levels: Levels) -> ContractResult:
    """Every map is doubled."""
    channels = resolve_smp_arguments(decoder)["decoder_channels"]
    return (
        require_depth(levels, 1)
        or _require_doubling_maps(levels)
        or require_decoder_widths(channels, levels)
        or _infer_doubled(levels, channels[-1])
    )


def infer_linknet(decoder: Smp, levels: Levels) -> ContractResult:
    """Every map is doubled."""
    return (
        require_depth(levels, 1) or _require_four_channels(levels.since(1)) or _infer_doubled(levels, LINKNET_CHANNELS)
    )


def _require_doubling_maps(levels: Levels) -> Rejection | None:
    """Refuse maps that do not meet. Before their widths are counted, because of those there may be fewer."""
    return require_used_maps(levels, levels.since(1), pyramid=True) or require_joinable_maps(levels, levels.since(1))


def _infer_doubled(levels: Levels, channels: int) -> ContractResult:
    """Every map is doubled and meets the next finer one as it is."""
    return (
        _require_doubling_maps(levels)
        or require_all_maps(levels, pyramid=True)
        or Outputs(features=[_build_level_0_map(levels, channels)], sizes=compute_exact_multiple(*levels.since(1)))
    )


def _require_four_channels(used: Features) -> Rejection | None:
    if all(f.channels >= 4 for f in used):
        return None
    return reject_narrow_maps("quarters the channels of each map, so they need at least 4")


def infer_fpn(decoder: Smp, levels: Levels) -> ContractResult:
    """The last four maps and no more: with three, smp's own would take the image itself for the fourth."""
    if len(levels.features) < 4:
        return Rejection(
            code="count",
            kind="raises",
            expected="takes at least 4 maps",
            repair=suggest_more_levels("four levels or more"),
        )
    used = levels.features[-4:]
    told = resolve_smp_arguments(decoder)
    channels = told["decoder_segmentation_channels"]
    # What is joined is one map for each of the four, or their sum.
    joined = 4 if told["decoder_merge_policy"] == "cat" else 1
    return (
        require_used_maps(levels, used, pyramid=True)
        or require_fpn_groups(channels)
        or require_joinable_maps(levels, used)
        or require_all_maps(levels, pyramid=True)
        or Outputs(
            features=[evolve(to_exact_grid(used[0]), channels=joined * channels)], sizes=compute_exact_multiple(*used)
        )
    )
