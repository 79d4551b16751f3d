"""What is wrong with the arguments of smp's decoders, whatever the features. No torch here."""

from __future__ import annotations

from typing import Any

from composer.contracts.rules import Refusal
from composer.feature import counted
from composer.parts import Smp
from composer.parts.smp import ARGUMENTS, given
from composer.problem import nearest

GROUPS = 32
"""The groups in which FPN normalises."""


def known_arguments(decoder: Smp) -> Refusal | None:
    """Refuse an argument that smp's decoder of this name has not: one of the others has it."""
    known = ARGUMENTS[decoder.name]
    values = given(decoder)
    if decoder.name == "DPT" and decoder.first_level is not None:
        # What it takes is made a pyramid by DPT itself.
        values["first_level"] = decoder.first_level
    strange = [name for name in values if name not in known]
    if not strange:
        return None
    return Refusal(
        code="argument",
        kind="impossible",
        expected=f"has no argument {strange[0]}",
        got=_written(values[strange[0]]),
        repair=nearest(strange[0], known),
        about=strange[0],
    )


def widths(channels: Any, depth: int) -> Refusal | None:
    """Refuse `decoder_channels` that are no list of one width for each level below the last."""
    repair = f"decoder_channels: {[max(256 // 2**level, 16) for level in range(depth)]}"
    if not isinstance(channels, tuple):
        expected, got = "takes a list of widths", _written(channels)
    elif len(channels) != depth:
        expected = f"has {counted(len(channels), 'width')} in decoder_channels, one for each level it climbs"
        got = f"{counted(depth, 'level')} from the last map, level {depth}, to level 0"
    else:
        return None
    return Refusal(code="count", kind="impossible", expected=expected, got=got, repair=repair, about="decoder_channels")


def width(channels: Any) -> Refusal | None:
    """Refuse `decoder_channels` that are no single width."""
    if not isinstance(channels, tuple):
        return None
    return Refusal(
        code="count",
        kind="impossible",
        expected="takes one width",
        got=_written(channels),
        repair=f"decoder_channels: {channels[-1]}",
        about="decoder_channels",
    )


def groups(channels: int) -> Refusal | None:
    """Refuse a width that does not fall into the groups of FPN's normalisation."""
    if channels % GROUPS == 0:
        return None
    return Refusal(
        code="channels",
        kind="impossible",
        expected=f"normalises in {GROUPS} groups, so decoder_segmentation_channels must be a multiple of {GROUPS}",
        got=str(channels),
        repair=f"decoder_segmentation_channels: {-(-channels // GROUPS) * GROUPS}",
        about="decoder_segmentation_channels",
    )


def _written(value: Any) -> str:
    """A value as a file has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value) if isinstance(value, tuple) else value)
