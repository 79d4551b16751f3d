"""Decoders as they are declared when nothing is said of them but their names. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import NOTHING, fields

from composer.contracts.smp.levels import levels_of
from composer.feature import Features
from composer.parts import (
    ASPPRegressionHead,
    ASPPSegmentationHead,
    Decoder,
    LinearDecoder,
    Mmseg,
    Part,
    Smp,
    UNetDecoder,
)
from composer.parts.fields import MOST_LEVELS

CLASSES = 2
"""How many classes a decoder predicts that predicts."""

WIDEST, NARROWEST = 256, 16
"""Widths of a decoder with one for each level: smp's own defaults, halved from one to the next."""


def columns(parts: Mapping[str, type[Part]]) -> tuple[str, ...]:
    """The names of the decoders among `parts`, of those that can be declared by their names alone."""
    return tuple(name for name, part in parts.items() if issubclass(part, Decoder) and not _asks(part))


def declared(name: str, part: type[Part], features: Features) -> Decoder:
    """A decoder for these features: the defaults of its own, and as many widths as there are levels.

    Where a field has no default it has what is usual: two classes, 256 channels, an enlargement to the image's size.
    """
    given: dict[str, Any] = {} if part.source is None else {"name": name.partition("/")[2]}
    decoder: Decoder = part(**given, **_fields(part, given.get("name"), features))  # type: ignore[assignment]
    return decoder


def _fields(part: type[Part], name: str | None, features: Features) -> dict[str, Any]:
    if issubclass(part, UNetDecoder):
        return {"channels": widths(len(features))}
    if issubclass(part, LinearDecoder):
        return {"num_classes": CLASSES, "upsampling_size": _enlargement(features)}
    if issubclass(part, ASPPSegmentationHead | ASPPRegressionHead):
        return {"channels": WIDEST}
    if issubclass(part, Mmseg):
        return {"num_classes": CLASSES}
    if issubclass(part, Smp):
        return _of_smp(str(name), features)
    return {}


def _of_smp(name: str, features: Features) -> dict[str, Any]:
    if name in ("Unet", "UnetPlusPlus", "MAnet"):
        return {"decoder_channels": widths(max(levels_of(Smp(name), features).depth, 1))}
    if name == "DPT":
        told = range(min(len(features), MOST_LEVELS))
        return {"decoder_intermediate_channels": tuple(min(256 * 2**level, 1024) for level in told)}
    return {}


def widths(levels: int) -> tuple[int, ...]:
    """One width for each level, the deepest first: 256, 128, 64, 32, 16."""
    # Of more than a part may be told there is none to tell.
    return tuple(max(WIDEST // 2**level, NARROWEST) for level in range(min(levels, MOST_LEVELS)))


def _enlargement(features: Features) -> int:
    stride = features[-1].stride
    return 4 if stride is None else min(max(int(stride), 1), 64)


def _asks(part: type[Part]) -> bool:
    """Whether a part has fields that are to be given, and that nothing is known of here."""
    known = (UNetDecoder, LinearDecoder, ASPPSegmentationHead, ASPPRegressionHead, Mmseg, Smp)
    if issubclass(part, known):
        return False
    return any(field.default is NOTHING for field in fields(part))  # type: ignore[arg-type]
