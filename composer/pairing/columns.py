"""Decoders as they are declared when nothing is said of them but their names. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import NOTHING, fields

from composer.contracts.smp.levels import build_levels
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
from composer.parts.fields import MAX_LEVELS

DEFAULT_CLASSES = 2
"""How many classes a decoder predicts that predicts."""

MAX_WIDTH, MIN_WIDTH = 256, 16
"""Widths of a decoder with one for each level: smp's own defaults, halved from one to the next."""


def list_decoder_names(parts: Mapping[str, type[Part]]) -> tuple[str, ...]:
    """The names of the decoders among `parts`, of those that can be declared by their names alone."""
    return tuple(name for name, part in parts.items() if issubclass(part, Decoder) and not _has_unknown_fields(part))


def build_default_decoder(name: str, part: type[Part], features: Features) -> Decoder:
    """A decoder for these features: the defaults of its own, and as many widths as there are levels.

    Where a field has no default it has what is usual: two classes, 256 channels, an enlargement to the image's size.
    """
    given: dict[str, Any] = {} if part.source is None else {"name": name.partition("/")[2]}
    decoder: Decoder = part(**given, **_choose_fields(part, given.get("name"), features))  # type: ignore[assignment]
    return decoder


def _choose_fields(part: type[Part], name: str | None, features: Features) -> dict[str, Any]:
    if issubclass(part, UNetDecoder):
        return {"channels": compute_widths(len(features))}
    if issubclass(part, LinearDecoder):
        return {"num_classes": DEFAULT_CLASSES, "upsampling_size": _compute_upsampling(features)}
    if issubclass(part, ASPPSegmentationHead | ASPPRegressionHead):
        return {"channels": MAX_WIDTH}
    if issubclass(part, Mmseg):
        return {"num_classes": DEFAULT_CLASSES}
    if issubclass(part, Smp):
        return _choose_smp_fields(str(name), features)
    return {}


def _choose_smp_fields(name: str, features: Features) -> dict[str, Any]:
    if name in ("Unet", "UnetPlusPlus", "MAnet"):
        return {"decoder_channels": compute_widths(max(build_levels(Smp(name), features).depth, 1))}
    if name == "DPT":
        told = range(min(len(features), MAX_LEVELS))
        return {"decoder_intermediate_channels": tuple(min(256 * 2**level, 1024) for level in told)}
    return {}


def compute_widths(levels: int) -> tuple[int, ...]:
    """One width for each level, the deepest first: 256, 128, 64, 32, 16."""
    # Of more than a part may be told there is none to tell.
    return tuple(max(MAX_WIDTH // 2**level, MIN_WIDTH) for level in range(min(levels, MAX_LEVELS)))


def _compute_upsampling(features: Features) -> int:
    stride = features[-1].stride
    return 4 if stride is None else min(max(int(stride), 1), 64)


def _has_unknown_fields(part: type[Part]) -> bool:
    """Whether a part has fields that are to be given, and that nothing is known of here."""
    known = (UNetDecoder, LinearDecoder, ASPPSegmentationHead, ASPPRegressionHead, Mmseg, Smp)
    if issubclass(part, known):
        return False
    return any(field.default is NOTHING for field in fields(part))  # type: ignore[arg-type]
