"""What smp's decoders give that pool the last map, or bring all maps to one grid at once. No torch here."""

from __future__ import annotations

from attrs import evolve

from composer.contracts.rules import (
    ContractResult,
    Outputs,
    Rejection,
    combine,
    compute_exact_multiple,
    compute_min_cells,
    is_map,
    reject_narrow_maps,
    require_finest_first,
    require_maps,
    scale_stride,
    to_exact_grid,
)
from composer.contracts.smp.arguments import require_single_width
from composer.contracts.smp.levels import Levels, require_all_maps, require_depth, require_used_maps
from composer.parts import Smp
from composer.parts.smp import resolve_smp_arguments
from composer.sizes import ANY_SIZE

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
