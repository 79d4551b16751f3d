"""Contracts of mmseg's decode heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from math import ceil
from types import MappingProxyType
from typing import Any

from attrs import asdict, evolve, frozen

from composer.adapters.mmseg.parts import MULTI_MAP_HEADS, Mmseg, resolve_mmseg_arguments
from composer.errors import suggest
from composer.layouts import Feature, Features, format_count
from composer.parts.base import contract
from composer.parts.rules import (
    ContractResult,
    Outputs,
    Rejection,
    compute_exact_multiple,
    require_indices,
    require_maps,
    scale_stride,
    to_exact_grid,
)

GN_GROUPS = 32
"""The groups of GN in mmseg's published configs."""


IGNORED_ARGUMENTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "DepthwiseSeparableFCNHead": ("act", "dilation"),
        "SegmenterMaskTransformerHead": ("channels", "dropout_ratio", "align_corners"),
    }
)
"""What heads take for the class they derive from, and make nothing of."""


def require_known_mmseg_arguments(head: Mmseg) -> Rejection | None:
    """Refuse an argument that the head of this name has not, or overlooks: one of the others has it."""
    known = head.defaults[head.name]
    for name, value in asdict(head, recurse=False).items():
        if name != "name" and name not in known and value is not None:
            return Rejection(
                code="argument",
                kind="wrong_output" if name in IGNORED_ARGUMENTS.get(head.name, ()) else "raises",
                expected=f"has no argument {name}",
                got=_format_value(value),
                repair=suggest(name, known),
                about=name,
            )
    return None


_NORMALIZED_WIDTHS = (
    "channels",
    "project_channels",
    "c1_channels",
    "ema_channels",
    "num_codes",
    "isa_channels",
    "ham_channels",
)
"""The widths that a head normalises, where it has them."""


def require_divisible_widths(name: str, told: Mapping[str, Any], chosen: Features) -> Rejection | None:
    """Refuse widths that do not fall into the groups of GN."""
    # SETR alone makes no norm where it has no convolution.
    if told.get("norm") != "GN" or (name == "SETRUPHead" and not told["num_convs"]):
        return None
    for field in _NORMALIZED_WIDTHS:
        width = told.get(field, GN_GROUPS)
        if width % GN_GROUPS:
            return Rejection(
                code="channels",
                kind="raises",
                expected=f"normalises in {GN_GROUPS} groups, so {field} must be a multiple of {GN_GROUPS}",
                got=str(width),
                repair=f"{field}: {-(-width // GN_GROUPS) * GN_GROUPS}",
                about=field,
            )
    if _count_normalized_channels(name, told, chosen) % GN_GROUPS:
        return Rejection(
            code="channels",
            kind="raises",
            expected=f"normalises the maps in {GN_GROUPS} groups too, so their channels must be a multiple of {GN_GROUPS}",
            repair="norm: BN",
            about="norm",
        )
    return None


def _count_normalized_channels(name: str, told: Mapping[str, Any], chosen: Features) -> int:
    """How many channels of the maps themselves are normalised, before any convolution changes them."""
    if name == "ANNHead":
        return chosen[-1].channels
    depthwise = name == "DepthwiseSeparableFCNHead" or (
        name == "DepthwiseSeparableASPPHead" and max(told["dilations"]) > 1
    )
    return sum(f.channels for f in chosen) if depthwise else 0


def require_even_split(told: Mapping[str, Any], width: str, parts: str) -> Rejection | None:
    """Refuse a number of parts that a width does not fall into."""
    if told[width] % told[parts] == 0:
        return None
    fitting = next(count for count in range(told[parts], 0, -1) if told[width] % count == 0)
    return Rejection(
        code="channels",
        kind="raises",
        expected=f"splits {width}, here {told[width]}, evenly into {parts}",
        got=str(told[parts]),
        repair=f"{parts}: {fitting}",
        about=parts,
    )


def require_squeezable_channels(told: Mapping[str, Any], by: float) -> Rejection | None:
    """Refuse `channels` of which a squeeze leaves none."""
    if int(told["channels"] * by) > 0:
        return None
    least = ceil(1 / by)
    return Rejection(
        code="channels",
        kind="raises",
        expected=f"squeezes channels, so there must be at least {least}",
        got=str(told["channels"]),
        repair=f"channels: {least}",
        about="channels",
    )


def require_matching_width(told: Mapping[str, Any], chosen: Features) -> Rejection | None:
    """Refuse a head without convolutions whose width is not the map's."""
    width = sum(f.channels for f in chosen)
    if told["num_convs"] or width == told["channels"]:
        return None
    return Rejection(
        code="channels",
        kind="raises",
        expected="has no convolution to change the width of the map, so channels must be that",
        got=f"{told['channels']} for {width}",
        repair=f"channels: {width}",
        about="channels",
    )


def require_one_convolution(told: Mapping[str, Any]) -> Rejection | None:
    """Refuse no convolutions, where mmseg replaces the first."""
    if told["num_convs"]:
        return None
    return Rejection(
        code="count",
        kind="raises",
        expected="has one convolution at least",
        got="0",
        repair="num_convs: 1",
        about="num_convs",
    )


def require_two_classes(told: Mapping[str, Any]) -> Rejection | None:
    """Refuse a single class where scores are normalised over classes: one alone would always be nought."""
    if told["num_classes"] > 1:
        return None
    return Rejection(
        code="classes",
        kind="policy",
        expected="normalises scores over the classes, so it takes two at least",
        got="1",
        repair="num_classes: 2",
        about="num_classes",
    )


def _format_value(value: Any) -> str:
    """A value as a file has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value) if isinstance(value, tuple) else value)


@frozen
class SelectedMaps:
    """The features that flow in, and the positions of those that a head takes."""

    features: Features
    positions: tuple[int, ...]

    @property
    def maps(self) -> Features:
        """Those that are taken, in the order in which they are."""
        return tuple(self.features[position] for position in self.positions)


def require_in_index_type(head: Mmseg, told: Mapping[str, Any]) -> Rejection | None:
    """Refuse a list where one map is taken, and one index where several are."""
    given = told["in_index"]
    concatenates = told.get("input_transform") == "resize_concat"
    if isinstance(given, tuple) and head.name not in MULTI_MAP_HEADS and not concatenates:
        able = "input_transform" in head.defaults[head.name]
        repair = "input_transform: resize_concat" if able else f"in_index: {given[-1]}"
        return _reject_in_index("takes one map, so in_index is a whole number", list(given), repair)
    if isinstance(head.in_index, int) and (head.name in MULTI_MAP_HEADS or concatenates):
        return _reject_in_index("takes several maps, so in_index is a list", given, f"in_index: [{given}]")
    return None


def _reject_in_index(expected: str, got: object, repair: str) -> Rejection:
    return Rejection(code="type", kind="raises", expected=expected, got=str(got), repair=repair, about="in_index")


def resolve_positions(name: str, told: Mapping[str, Any], features: Features) -> tuple[int, ...]:
    """The positions of what a head takes: of all, where it takes several and is not told which."""
    given = told["in_index"]
    if isinstance(given, tuple):
        return given
    several = name in MULTI_MAP_HEADS or told.get("input_transform") == "resize_concat"
    return tuple(range(len(features))) if several else (given,)


def require_two_maps(taken: SelectedMaps) -> Rejection | None:
    """Refuse other than two maps, where one is compared with the other."""
    if len(taken.positions) == 2:
        return None
    return Rejection(
        code="count",
        kind="raises",
        expected="takes two maps",
        got=format_count(len(taken.positions), "map"),
        repair="in_index: [-2, -1]",
        about="in_index",
    )


def require_selected_finest_first(taken: SelectedMaps) -> Rejection | None:
    """Refuse maps upside down: the scores are at the grid of the first of them."""
    strides = [f.stride for f in taken.maps if f.stride is not None]
    if strides == sorted(strides):
        return None
    order = sorted(range(len(strides)), key=strides.__getitem__)
    return Rejection(
        code="order",
        kind="policy",
        expected="gives scores at the grid of the first map, so strides must not decrease",
        repair=f"in_index: {[taken.positions[place] for place in order]}",
    )


def require_finer_first_map(taken: SelectedMaps) -> Rejection | None:
    """Refuse a first map that is coarser than the one it is to refine."""
    first, refined = taken.features[0].stride, taken.maps[0].stride
    if first is None or refined is None or first <= refined:
        return None
    order = sorted(range(len(taken.features)), key=lambda place: taken.features[place].stride or 0)
    return Rejection(
        code="order",
        kind="policy",
        expected="refines a map with the first of all, so that one must not be coarser",
        got=f"stride {first} for {refined}",
        repair=f"necks: [SelectIndices: {{indices: {order}}}]",
    )


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
