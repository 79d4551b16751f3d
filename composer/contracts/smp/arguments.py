"""What is wrong with the arguments of smp's decoders, whatever the features. No torch here."""

from __future__ import annotations

from typing import Any

from attrs import asdict

from composer.contracts.rules import Rejection
from composer.contracts.smp.levels import Levels
from composer.feature import format_count
from composer.parts import Smp
from composer.problem import suggest

FPN_GROUPS = 32
"""The groups in which FPN normalises."""

SCSE_REDUCTION = 16
"""How many channels become one where scse looks at the channels."""


def require_known_smp_arguments(decoder: Smp) -> Rejection | None:
    """Refuse an argument that smp's decoder of this name has not: one of the others has it."""
    known = decoder.defaults[decoder.name]
    for name, value in asdict(decoder, recurse=False).items():
        if name != "name" and name not in known and value is not None:
            return Rejection(
                code="argument",
                kind="raises",
                expected=f"has no argument {name}",
                got=_format_value(value),
                repair=suggest(name, known),
                about=name,
            )
    return None


def require_decoder_widths(channels: Any, levels: Levels) -> Rejection | None:
    """Refuse `decoder_channels` that are no list of one width for each level below the last."""
    depth = levels.depth
    repair = f"decoder_channels: {[max(256 // 2**level, 16) for level in range(depth)]}"
    if not isinstance(channels, tuple):
        expected, got = "takes a list of widths", _format_value(channels)
    elif len(channels) != depth:
        expected = f"has {format_count(len(channels), 'width')} in decoder_channels, one for each level it climbs"
        got = f"{format_count(depth, 'level')} from the last map, level {depth}, to level 0"
        if len(channels) == depth - 1 and levels.first == 1 and levels.features[0].stride == 1:
            # The first map is at the image's resolution, so more likely level 0 than level 1.
            repair = "first_level: 0"
    else:
        return None
    return Rejection(code="count", kind="raises", expected=expected, got=got, repair=repair, about="decoder_channels")


def require_single_width(channels: Any) -> Rejection | None:
    """Refuse `decoder_channels` that are no single width."""
    if not isinstance(channels, tuple):
        return None
    return Rejection(
        code="count",
        kind="raises",
        expected="takes one width",
        got=_format_value(channels),
        repair=f"decoder_channels: {channels[-1]}",
        about="decoder_channels",
    )


def require_fpn_groups(channels: int) -> Rejection | None:
    """Refuse a width that does not fall into the groups of FPN's normalisation."""
    if channels % FPN_GROUPS == 0:
        return None
    return Rejection(
        code="channels",
        kind="raises",
        expected=f"normalises in {FPN_GROUPS} groups, so decoder_segmentation_channels must be a multiple of {FPN_GROUPS}",
        got=str(channels),
        repair=f"decoder_segmentation_channels: {-(-channels // FPN_GROUPS) * FPN_GROUPS}",
        about="decoder_segmentation_channels",
    )


def require_scse_widths(attention: str | None, *channels: int) -> Rejection | None:
    """Refuse attention in blocks so narrow that the squeeze leaves no channel. A block of no channels is left out."""
    narrow = [width for width in channels if 0 < width < SCSE_REDUCTION]
    if attention is None or not narrow:
        return None
    return Rejection(
        code="channels",
        kind="raises",
        expected=f"squeezes channels by {SCSE_REDUCTION} in each block with scse, so a block must have that many",
        got=f"one of {min(narrow)}",
        repair="decoder_attention_type: null",
        about="decoder_attention_type",
    )


def _format_value(value: Any) -> str:
    """A value as a file has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value) if isinstance(value, tuple) else value)
