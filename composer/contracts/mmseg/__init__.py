"""What mmseg's decode heads give, as mmseg 1.2 computes it; mmseg itself is not needed to know. No torch here.

Scores stay at a grid that flows in, but for SETRUPHead's. Whatever a head pools or joins is brought to the grid of the
map that it stands beside, so nothing has to be whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from attrs import evolve

from composer.contracts.dispatch import contract
from composer.contracts.mmseg.arguments import (
    require_divisible_widths,
    require_even_split,
    require_known_mmseg_arguments,
    require_matching_width,
    require_one_convolution,
    require_squeezable_channels,
    require_two_classes,
)
from composer.contracts.mmseg.taken import (
    SelectedMaps,
    require_finer_first_map,
    require_in_index_type,
    require_selected_finest_first,
    require_two_maps,
    resolve_positions,
)
from composer.contracts.rules import (
    ContractResult,
    Outputs,
    compute_exact_multiple,
    require_indices,
    require_maps,
    scale_stride,
    to_exact_grid,
)
from composer.feature import Feature, Features
from composer.parts.mmseg import Mmseg, resolve_mmseg_arguments

Arguments = Mapping[str, Any]


@contract.register(Mmseg)
def _(head: Mmseg, features: Features) -> ContractResult:
    told = resolve_mmseg_arguments(head)
    if refusal := require_known_mmseg_arguments(head) or require_in_index_type(head, told):
        return refusal
    taken = SelectedMaps(features, resolve_positions(head.name, told, features))
    if refusal := require_indices(features, taken.positions, "in_index"):
        return refusal
    # EncHead looks at the others only where it is told to.
    used = taken.maps[-1:] if head.name == "EncHead" and not told["add_lateral"] else taken.maps
    return (
        require_maps(used)
        or require_divisible_widths(head.name, told, taken.maps)
        or _MMSEG_RULES.get(head.name, _infer_first_grid)(told, taken)
    )


def _infer_first_grid(told: Arguments, taken: SelectedMaps) -> ContractResult:
    return _build_score_outputs(taken.maps[0], told)


def _infer_last_grid(told: Arguments, taken: SelectedMaps) -> ContractResult:
    return _build_score_outputs(taken.maps[-1], told)


def _infer_finest_grid(told: Arguments, taken: SelectedMaps) -> ContractResult:
    return require_selected_finest_first(taken) or _infer_first_grid(told, taken)


def _infer_ann_head(told: Arguments, taken: SelectedMaps) -> ContractResult:
    return require_two_maps(taken) or _infer_last_grid(told, taken)


def _infer_fpn_head(told: Arguments, taken: SelectedMaps) -> ContractResult:
    """mmseg asserts that the first stride is the least, and goes on whatever follows."""
    refusal = require_selected_finest_first(taken)
    strides = [f.stride for f in taken.maps if f.stride is not None]
    if refusal is not None and strides[0] > min(strides):
        return evolve(refusal, kind="raises")
    return refusal or _infer_first_grid(told, taken)


def _infer_light_ham_head(told: Arguments, taken: SelectedMaps) -> ContractResult:
    return require_even_split(told, "ham_channels", "MD_S") or _infer_finest_grid(told, taken)


def _infer_separable_aspp_head(told: Arguments, taken: SelectedMaps) -> ContractResult:
    """The map is joined with the first of all, at that one's grid."""
    first = taken.features[0]
    return require_maps((first,)) or require_finer_first_map(taken) or _build_score_outputs(first, told)


def _infer_fcn_head(told: Arguments, taken: SelectedMaps) -> ContractResult:
    return require_matching_width(told, taken.maps) or _infer_first_grid(told, taken)


def _infer_separable_fcn_head(told: Arguments, taken: SelectedMaps) -> ContractResult:
    return require_one_convolution(told) or _infer_first_grid(told, taken)


def _infer_criss_cross_head(told: Arguments, taken: SelectedMaps) -> ContractResult:
    return require_squeezable_channels(told, 1 / 8) or _infer_first_grid(told, taken)


def _infer_global_context_head(told: Arguments, taken: SelectedMaps) -> ContractResult:
    return require_squeezable_channels(told, told["ratio"]) or _infer_first_grid(told, taken)


def _infer_setr_head(told: Arguments, taken: SelectedMaps) -> ContractResult:
    """The map is enlarged after every convolution: exact only where it is whole itself."""
    if refusal := require_matching_width(told, taken.maps):
        return refusal
    first = to_exact_grid(taken.maps[0])
    stride = scale_stride(first.stride, Fraction(1, told["up_scale"] ** told["num_convs"]))
    return Outputs(
        features=[evolve(first, channels=told["num_classes"], stride=stride)], sizes=compute_exact_multiple(first)
    )


def _infer_segmenter_head(told: Arguments, taken: SelectedMaps) -> ContractResult:
    told = {**told, **resolve_segmenter_attention(told, taken.maps[0])}
    return (
        require_even_split(told, "embed_dims", "num_heads")
        or require_two_classes(told)
        or _infer_first_grid(told, taken)
    )


def resolve_segmenter_attention(told: Arguments, feature: Feature) -> dict[str, int]:
    """Segmenter's width and heads: as wide as the map, and a head for 64 channels, where nothing else is said."""
    width = told["embed_dims"] or feature.channels
    return {"embed_dims": width, "num_heads": told["num_heads"] or max(width // 64, 1)}


def _build_score_outputs(feature: Feature, told: Arguments) -> Outputs:
    return Outputs(features=[evolve(feature, channels=told["num_classes"])])


_MMSEG_RULES: Mapping[str, Callable[[Arguments, SelectedMaps], ContractResult]] = MappingProxyType(
    {
        "ANNHead": _infer_ann_head,
        "CCHead": _infer_criss_cross_head,
        "DepthwiseSeparableASPPHead": _infer_separable_aspp_head,
        "DepthwiseSeparableFCNHead": _infer_separable_fcn_head,
        "EncHead": _infer_last_grid,
        "FCNHead": _infer_fcn_head,
        "FPNHead": _infer_fpn_head,
        "GCHead": _infer_global_context_head,
        "LightHamHead": _infer_light_ham_head,
        "SETRUPHead": _infer_setr_head,
        "STDCHead": _infer_fcn_head,
        "SegformerHead": _infer_finest_grid,
        "SegmenterMaskTransformerHead": _infer_segmenter_head,
        "UPerHead": _infer_finest_grid,
    }
)
"""What sets a head apart; the others give scores at the grid of the first map that they take."""
