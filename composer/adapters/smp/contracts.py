"""Contracts of smp's decoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType

from attrs import evolve

from composer.adapters.smp.levels import (
    Levels,
    build_levels,
    is_doubling,
    require_all_maps,
    require_decoder_widths,
    require_depth,
    require_fpn_groups,
    require_joinable_maps,
    require_known_smp_arguments,
    require_scse_widths,
    require_single_width,
    require_used_maps,
)
from composer.adapters.smp.parts import SMP_DECODER_ARGUMENTS as SMP_DECODER_ARGUMENTS
from composer.adapters.smp.parts import Smp, resolve_smp_arguments
from composer.layouts import MAP, TOKENS, Feature, Features, format_count
from composer.parts.base import contract
from composer.parts.rules import (
    ContractResult,
    Outputs,
    Rejection,
    combine,
    compute_exact_multiple,
    compute_min_cells,
    is_map,
    reject_narrow_maps,
    require,
    require_doubling_strides,
    require_finest_first,
    require_maps,
    scale_stride,
    suggest_more_levels,
    to_exact_grid,
)
from composer.sizes import ANY_SIZE

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


def infer_dpt(decoder: Smp, features: Features) -> ContractResult:
    """Level i + 2 is made of feature i, by a factor that follows from its stride; each is doubled and meets the next.

    Prefix tokens go into the map by `decoder_readout`: the first of them beside every cell's channels (cat), their
    mean added to every cell (add), or not at all (ignore).
    """
    told = resolve_smp_arguments(decoder)
    if refusal := (
        require(features, _is_grid, f'tokens "{TOKENS}" or maps "{MAP}", without frames')
        or _require_width_per_feature(told["decoder_intermediate_channels"], features)
        or (_require_uniform_prefix(features) if told["decoder_readout"] == "cat" else None)
        or _require_zero_offset(features)
    ):
        return refusal
    pyramid = tuple(
        Feature(channels=1, stride=scale_stride(f.stride, 1 / compute_scale_factor(f, place)))
        for place, f in enumerate(features)
    )
    out = Feature(channels=told["decoder_fusion_channels"], stride=scale_stride(pyramid[0].stride, Fraction(1, 2)))
    return _require_dpt_strides(features, pyramid) or Outputs(
        features=[out], sizes=compute_exact_multiple(*features, *pyramid)
    )


def compute_scale_factor(feature: Feature, place: int) -> Fraction:
    """By how much smp enlarges the feature at `place` so that its stride be 2**(place + 2): a whole number, or 1 / one.

    Where the ratio is neither, smp cuts its fraction off.
    """
    ratio = scale_stride(feature.stride, Fraction(1, 2 ** (place + 2)))
    return Fraction(int(ratio)) if ratio >= 1 else Fraction(1, int(1 / ratio))


def _is_grid(feature: Feature) -> bool:
    return is_map(feature) or (feature.axes == TOKENS and feature.frames == 1)


def _require_width_per_feature(channels: tuple[int, ...], features: Features) -> Rejection | None:
    if len(channels) == len(features):
        return None
    default = (256, 512, 1024, 1024)
    return Rejection(
        code="count",
        kind="raises",
        expected=f"has {format_count(len(channels), 'width')} in decoder_intermediate_channels, one for each feature",
        got=format_count(len(features), "feature"),
        repair=f"decoder_intermediate_channels: {[default[min(place, 3)] for place in range(len(features))]}",
        about="decoder_intermediate_channels",
    )


def _require_uniform_prefix(features: Features) -> Rejection | None:
    if len({f.prefix > 0 for f in features}) == 1:
        return None
    return Rejection(
        code="prefix",
        kind="raises",
        expected="puts a prefix token beside every cell's channels, so all features have one or none has",
        repair="decoder_readout: ignore",
        about="decoder_readout",
    )


def _require_zero_offset(features: Features) -> Rejection | None:
    """Refuse grids that lose cells at the borders: what is made of them shrinks some of them and doubles others."""
    if not any(to_exact_grid(f).offset for f in features):
        return None
    return Rejection(
        code="offset",
        kind="wrong_output",
        expected="takes features that cover the whole image, so of offset 0",
        repair="choose an encoder that pads its convolutions",
    )


def _require_dpt_strides(features: Features, pyramid: Features) -> Rejection | None:
    strides = [scale_stride(f.stride, 1) for f in pyramid]
    if is_doubling(strides):
        return None
    return Rejection(
        code="stride",
        kind="raises",
        expected="makes a pyramid of features whose stride is 4, 8, 16 or another power of two",
        got=f"strides {', '.join(str(f.stride) for f in features)} become {', '.join(map(str, strides))}",
        repair="choose an encoder whose patches have 8, 16 or 32 pixels a side",
    )


MIN_PAN_CELLS = 8
"""PAN halves the last map three times."""


def infer_pspnet(decoder: Smp, levels: Levels) -> ContractResult:
    """The last map's grid. Four pooled maps of a quarter of its channels stand beside it."""
    last = levels.features[-1:]
    if refusal := require_maps(last):
        return refusal
    if last[0].channels % 4:
        return reject_narrow_maps("splits the channels of the last map into quarters, so they must be a multiple of 4")
    return Outputs(features=[evolve(last[0], channels=resolve_smp_arguments(decoder)["psp_out_channels"])])


def infer_deeplab(decoder: Smp, levels: Levels) -> ContractResult:
    """The last map's grid."""
    channels = resolve_smp_arguments(decoder)["decoder_channels"]
    last = levels.features[-1:]
    return (
        require_maps(last) or require_single_width(channels) or Outputs(features=[evolve(last[0], channels=channels)])
    )


def infer_deeplab_plus(decoder: Smp, levels: Levels) -> ContractResult:
    """The grid of level 2, which the last map is enlarged to by a whole factor."""
    if refusal := require_depth(levels, 3):
        return refusal
    fine, *_, last = levels.since(2)
    channels = resolve_smp_arguments(decoder)["decoder_channels"]
    return (
        require_used_maps(levels, (fine, last))
        or require_single_width(channels)
        or _require_enlargeable_last_map(levels)
        or require_all_maps(levels)
        or Outputs(features=[evolve(to_exact_grid(fine), channels=channels)], sizes=compute_exact_multiple(fine, last))
    )


def _require_enlargeable_last_map(levels: Levels) -> Rejection | None:
    """The last map is enlarged by 4 or 2 and meets the map of level 2. smp has the encoder keep its stride for that."""
    if _is_last_map_enlargeable(levels):
        return None
    counts = range(len(levels.features) - 1, 3 - levels.first, -1) if all(map(is_map, levels.features)) else ()
    cut = next(
        (count for count in counts if _is_last_map_enlargeable(Levels(levels.first, levels.features[:count]))), None
    )
    return Rejection(
        code="stride",
        kind="raises",
        expected=f"enlarges the last map by {'4 or 2' if levels.depth > 3 else '2'}, to meet the map of level 2",
        repair=f"necks: [SelectIndices: {{indices: {list(range(cut))}}}]" if cut else None,
    )


def _is_last_map_enlargeable(levels: Levels) -> bool:
    fine, *_, last = levels.since(2)
    factor = scale_stride(last.stride, 1) / scale_stride(fine.stride, 1)
    return to_exact_grid(fine).offset == to_exact_grid(last).offset and (
        factor == 2 or (factor == 4 and levels.depth > 3)
    )


def infer_pan(decoder: Smp, levels: Levels) -> ContractResult:
    """The grid of level 2: every map is brought to the grid of the next finer one, so nothing has to be whole."""
    channels = resolve_smp_arguments(decoder)["decoder_channels"]
    used = levels.since(2)
    return (
        require_depth(levels, 3)
        or require_used_maps(levels, used)
        or require_single_width(channels)
        or require_all_maps(levels)
        or _require_max_depth(levels)
        or require_finest_first(levels.features)
        or Outputs(features=[evolve(used[0], channels=channels)], sizes=compute_min_cells(used[-1], MIN_PAN_CELLS))
    )


def _require_max_depth(levels: Levels) -> Rejection | None:
    if levels.depth <= 5:
        return None
    return Rejection(
        code="count",
        kind="policy",
        expected="has gates for the levels up to 5, and would pass over those between them and the last",
        got=f"level {levels.depth}",
        repair=f"necks: [SelectIndices: {{indices: {list(range(6 - levels.first))}}}]",
    )


def infer_upernet(decoder: Smp, levels: Levels) -> ContractResult:
    """The grid of level 2: every map is brought to the grid of the next finer one, and all of them to the finest."""
    channels = resolve_smp_arguments(decoder)["decoder_channels"]
    used = levels.since(2)
    return (
        require_depth(levels, 3)
        or require_used_maps(levels, used)
        or require_single_width(channels)
        or require_all_maps(levels)
        or require_finest_first(levels.features)
        or Outputs(features=[evolve(used[0], channels=channels)])
    )


def infer_segformer(decoder: Smp, levels: Levels) -> ContractResult:
    """Every map is brought to a quarter of level 0: floor(h / 4), and level 0 has 1, 2 or 4 times the first map's."""
    if refusal := (
        require_depth(levels, 3)
        or require_used_maps(levels, levels.since(1))
        or require_all_maps(levels, "wrong_output")
        or require_finest_first(levels.features)
    ):
        return refusal
    first = evolve(levels.features[0], channels=resolve_smp_arguments(decoder)["decoder_segmentation_channels"])
    if levels.first == 2:
        return Outputs(features=[first])
    out = evolve(first, stride=scale_stride(first.stride, 4 // 2**levels.first), rounding="floor")
    # floor(floor(x) / 2) = floor(x / 2), so one that rounds down goes on doing so; one that rounds up has to be whole.
    return Outputs(
        features=[out],
        sizes=combine(
            compute_exact_multiple(first) if first.rounding == "ceil" else ANY_SIZE, compute_min_cells(out, 1)
        ),
    )


@contract.register(Smp)
def _(decoder: Smp, features: Features) -> ContractResult:
    if refusal := require_known_smp_arguments(decoder):
        return refusal
    if decoder.name == "DPT":
        return infer_dpt(decoder, features)
    return _SMP_RULES[decoder.name](decoder, build_levels(decoder, features))


_SMP_RULES: Mapping[str, Callable[[Smp, Levels], ContractResult]] = MappingProxyType(
    {
        "Unet": infer_unet,
        "UnetPlusPlus": infer_unet_plus_plus,
        "MAnet": infer_manet,
        "Linknet": infer_linknet,
        "FPN": infer_fpn,
        "PSPNet": infer_pspnet,
        "DeepLabV3": infer_deeplab,
        "DeepLabV3Plus": infer_deeplab_plus,
        "PAN": infer_pan,
        "UPerNet": infer_upernet,
        "Segformer": infer_segformer,
    }
)
