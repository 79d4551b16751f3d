"""What is wrong with the arguments of mmseg's heads, by themselves or for the widths of the maps. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from types import MappingProxyType
from typing import Any

from attrs import asdict

from composer.contracts.rules import Rejection
from composer.feature import Features
from composer.parts.mmseg import Mmseg
from composer.problem import suggest

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
