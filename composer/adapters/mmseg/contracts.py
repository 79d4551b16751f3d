"""Contracts of mmseg's decode heads: a table, read by one function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from math import ceil
from types import MappingProxyType
from typing import Any

from attrs import evolve, frozen

from composer.adapters.mmseg.parts import MULTI_MAP_HEADS, Mmseg, resolve_mmseg_arguments
from composer.adapters.rejections import GROUPS, reject_argument, require_group_multiple, require_known_arguments
from composer.layouts import Feature, Features, format_count
from composer.parts.base import contract
from composer.parts.rules import (
    Change,
    ContractResult,
    Outputs,
    Rejection,
    compute_exact_multiple,
    require_indices,
    require_maps,
    scale_stride,
    to_exact_grid,
)
from composer.sizes import ANY_SIZE

GN_GROUPS = GROUPS

IGNORED_ARGUMENTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "DepthwiseSeparableFCNHead": ("act", "dilation"),
        "SegmenterMaskTransformerHead": ("channels", "dropout_ratio", "align_corners"),
    }
)
"""Arguments that heads accept for their base class, without effect."""

NORMALIZED_WIDTHS = (
    "channels",
    "project_channels",
    "c1_channels",
    "ema_channels",
    "num_codes",
    "isa_channels",
    "ham_channels",
)
"""The widths that heads normalise."""


@frozen
class Call:
    """A head's arguments and inputs, and the positions of the inputs that it uses: `several`, or one."""

    name: str
    arguments: Mapping[str, Any]
    features: Features
    positions: tuple[int, ...]
    several: bool

    @property
    def maps(self) -> Features:
        """The inputs that the head uses, in the order of `positions`."""
        return tuple(self.features[position] for position in self.positions)


def build_call(head: Mmseg, features: Features) -> Call:
    """Return the arguments and positions for these inputs. A head of several maps uses all of them by default."""
    arguments = resolve_mmseg_arguments(head)
    index = arguments["in_index"]
    several = head.name in MULTI_MAP_HEADS or arguments.get("input_transform") == "resize_concat"
    positions = index if isinstance(index, tuple) else tuple(range(len(features))) if several else (index,)
    return Call(head.name, arguments, features, positions, several)


@frozen
class Rule:
    """The contract of a head: its own checks, and the feature whose grid its scores have, mostly the first it uses."""

    checks: tuple[Callable[[Call], Rejection | None], ...] = ()
    infer_grid: Callable[[Call], Feature] = lambda call: call.maps[0]


@contract.register(Mmseg)
def _(head: Mmseg, features: Features) -> ContractResult:
    known, ignored = head.defaults[head.name], IGNORED_ARGUMENTS.get(head.name, ())
    call, rule = build_call(head, features), RULES.get(head.name, Rule())
    if rejection := (
        require_known_arguments(head, known, ignored)
        or _require_in_index_type(head, call)
        or require_indices(features, call.positions, "in_index")
    ):
        return rejection
    # EncHead uses the maps before the last for its lateral convolutions only.
    used = call.maps[-1:] if call.arguments.get("add_lateral") is False else call.maps
    if rejection := require_maps(used) or _require_groups(call):
        return rejection
    if rejection := next((rejection for check in rule.checks if (rejection := check(call))), None):
        return rejection
    scores = evolve(rule.infer_grid(call), channels=head.num_classes)
    # Each convolution of SETRUPHead is followed by a resize, which is exact for a whole grid only.
    sizes = compute_exact_multiple(call.maps[0]) if head.name == "SETRUPHead" else ANY_SIZE
    return Outputs(features=[scores], sizes=sizes)


def _require_in_index_type(head: Mmseg, call: Call) -> Rejection | None:
    index = call.arguments["in_index"]
    if isinstance(index, tuple) and not call.several:
        expected = "takes one map, so in_index is a whole number"
        rejection = reject_argument("in_index", expected, index, index[-1], code="type")
        change = Change("input_transform", "resize_concat")
        return evolve(rejection, change=change) if "input_transform" in head.defaults[head.name] else rejection
    if isinstance(head.in_index, int) and call.several:
        return reject_argument("in_index", "takes several maps, so in_index is a list", index, [index], code="type")
    return None


def _require_groups(call: Call) -> Rejection | None:
    """Reject widths that a group norm cannot divide."""
    arguments = call.arguments
    # SETRUPHead has no norm without a convolution.
    if arguments.get("norm") != "GN" or (call.name == "SETRUPHead" and not arguments["num_convs"]):
        return None
    for name in NORMALIZED_WIDTHS:
        if rejection := require_group_multiple(name, arguments.get(name, 0)):
            return rejection
    if _count_normalized_channels(call) % GN_GROUPS == 0:
        return None
    expected = f"normalises the maps in {GN_GROUPS} groups too, so their channels must be a multiple of {GN_GROUPS}"
    return reject_argument("norm", expected, None, "BN")


def _count_normalized_channels(call: Call) -> int:
    """Return the channels of the inputs that are normalised before any convolution changes them."""
    if call.name == "ANNHead":
        return call.maps[-1].channels
    depthwise = call.name == "DepthwiseSeparableFCNHead" or (
        call.name == "DepthwiseSeparableASPPHead" and max(call.arguments["dilations"]) > 1
    )
    return sum(f.channels for f in call.maps) if depthwise else 0


def _require_two_maps(call: Call) -> Rejection | None:
    count = len(call.positions)
    if count == 2:
        return None
    return reject_argument("in_index", "takes two maps", format_count(count, "map"), [-2, -1], code="count")


def _require_finest_first(call: Call) -> Rejection | None:
    strides = [f.stride for f in call.maps if f.stride is not None]
    if strides == sorted(strides):
        return None
    order = sorted(range(len(strides)), key=strides.__getitem__)
    # FPNHead asserts that the first stride is the smallest, in whatever order the others are.
    return reject_argument(
        "in_index",
        "gives scores at the grid of the first map, so strides must not decrease",
        None,
        [call.positions[place] for place in order],
        code="index",
        kind="raises" if call.name == "FPNHead" and strides[0] > min(strides) else "policy",
    )


def _require_first_feature(call: Call) -> Rejection | None:
    """Reject a first input that cannot refine the map: one that is not a map, or is coarser."""
    first, refined = call.features[0].stride, call.maps[0].stride
    if (rejection := require_maps(call.features[:1])) or first is None or refined is None or first <= refined:
        return rejection
    expected = "refines a map with the first of all, so that one must not be coarser"
    return Rejection(code="index", kind="policy", expected=expected, got=f"stride {first} for {refined}")


def _require_squeezable_channels(call: Call) -> Rejection | None:
    ratio = call.arguments.get("ratio", 1 / 8)
    if int(call.arguments["channels"] * ratio) > 0:
        return None
    least = ceil(1 / ratio)
    expected = f"squeezes channels, so there must be at least {least}"
    return reject_argument("channels", expected, call.arguments["channels"], least)


def _require_matching_width(call: Call) -> Rejection | None:
    """Reject a head without convolutions whose width is not the map's."""
    channels, width = call.arguments["channels"], sum(f.channels for f in call.maps)
    if call.arguments["num_convs"] or width == channels:
        return None
    expected = "has no convolution to change the width of the map, so channels must be that"
    return reject_argument("channels", expected, f"{channels} for {width}", width)


def _require_one_convolution(call: Call) -> Rejection | None:
    """Reject a head without convolutions, because mmseg replaces the first."""
    if call.arguments["num_convs"]:
        return None
    return reject_argument("num_convs", "has one convolution at least", 0, 1, code="count")


def _require_ham_split(call: Call) -> Rejection | None:
    return _require_even_split(call.arguments, "ham_channels", "MD_S")


def _require_attention_split(call: Call) -> Rejection | None:
    return _require_even_split(resolve_segmenter_attention(call), "embed_dims", "num_heads")


def _require_even_split(arguments: Mapping[str, Any], width: str, parts: str) -> Rejection | None:
    if arguments[width] % arguments[parts] == 0:
        return None
    divisor = next(count for count in range(arguments[parts], 0, -1) if arguments[width] % count == 0)
    expected = f"splits {width}, here {arguments[width]}, evenly into {parts}"
    return reject_argument(parts, expected, arguments[parts], divisor)


def resolve_segmenter_attention(call: Call) -> dict[str, int]:
    """Return Segmenter's width, by default that of the map, and its heads, by default one for 64 channels."""
    width = call.arguments["embed_dims"] or call.maps[0].channels
    return {"embed_dims": width, "num_heads": call.arguments["num_heads"] or max(width // 64, 1)}


def _require_two_classes(call: Call) -> Rejection | None:
    """Reject a single class where scores are normalised over the classes: it would always be 0."""
    if call.arguments["num_classes"] > 1:
        return None
    expected = "normalises scores over the classes, so it takes two at least"
    return reject_argument("num_classes", expected, 1, 2, code="value", kind="policy")


def _infer_setr_grid(call: Call) -> Feature:
    first = to_exact_grid(call.maps[0])
    factor = call.arguments["up_scale"] ** call.arguments["num_convs"]
    return evolve(first, stride=scale_stride(first.stride, Fraction(1, factor)))


def _get_last_map(call: Call) -> Feature:
    return call.maps[-1]


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "ANNHead": Rule((_require_two_maps,), _get_last_map),
        "CCHead": Rule((_require_squeezable_channels,)),
        "DepthwiseSeparableASPPHead": Rule((_require_first_feature,), lambda call: call.features[0]),
        "DepthwiseSeparableFCNHead": Rule((_require_one_convolution,)),
        "EncHead": Rule(infer_grid=_get_last_map),
        "FCNHead": Rule((_require_matching_width,)),
        "FPNHead": Rule((_require_finest_first,)),
        "GCHead": Rule((_require_squeezable_channels,)),
        "LightHamHead": Rule((_require_ham_split, _require_finest_first)),
        "SETRUPHead": Rule((_require_matching_width,), _infer_setr_grid),
        "STDCHead": Rule((_require_matching_width,)),
        "SegformerHead": Rule((_require_finest_first,)),
        "SegmenterMaskTransformerHead": Rule((_require_attention_split, _require_two_classes)),
        "UPerHead": Rule((_require_finest_first,)),
    }
)
"""The heads that differ from the plain `Rule()`."""
