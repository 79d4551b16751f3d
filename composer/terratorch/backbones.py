"""TerraTorch's backbones in terms of composer's encoders, and how it pads images for them. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from math import lcm
from typing import Any

from attrs import evolve, field, frozen

from composer.contracts import Refusal
from composer.feature import Image
from composer.parts import Encoder, Facts, Neck, Probed, TemporalPooling, Timm
from composer.parts.encoders import BARRED
from composer.sizes import Padding
from composer.terratorch.arguments import Arguments, Ledger, declared

Describe = Callable[[Probed, int], Facts | Refusal]

FIELDS = ("pretrained", "out_indices", "output_stride", "img_size")
"""The arguments of timm that are fields of an encoder, and not options."""

SHADOWED = (
    "convnext_pico",
    *(f"convnextv2_{size}" for size in ("atto", "femto", "nano", "tiny", "base", "large", "huge")),
)
"""Names of timm that TerraTorch's own backbones hide, unless they are written `timm_…`; those cannot be built by it."""

MODES = {"reflect": "reflect", "replicate": "replicate", "constant": "zeros", "zeros": "zeros"}
"""torch's ways of padding, and what they are called here."""


@frozen(kw_only=True)
class Backbone:
    """An encoder, the image that it is fed, what pools its frames, and how TerraTorch pads for it."""

    encoder: Encoder
    image: Image
    pooling: tuple[Neck, ...] = ()
    padding: Padding = field(factory=Padding)
    fallback: tuple[Neck, ...] = ()
    """The necks that stand where a call gives none."""


def timm_backbone(name: str, path: str, arguments: Arguments, ledger: Ledger, describe: Describe) -> Backbone | None:
    """A network of timm as TerraTorch builds it: with `features_only`, and without padding where it has no patches."""
    frames, pooling, arguments = temporal(arguments, ledger)
    if arguments.get("features_only", True) is not True:
        ledger.refuse(arguments.path("features_only"), "TerraTorch takes timm's networks with features_only alone.")
    channels = arguments.get("in_chans", 3)
    given = arguments.without("features_only", "in_chans", "padding")
    if "padding" in arguments:
        ledger.refuse(arguments.path("padding"), "timm's networks take no padding, and TerraTorch hands it on to them.")
    encoder = _encoder(name, given, ledger)
    image = _image(channels, frames, arguments, ledger)
    if encoder is None or image is None:
        return None
    if name in SHADOWED:
        ledger.note(path, f"TerraTorch takes {name} for a backbone of its own, which its factory cannot build.")
    encoder, padding = _padded_as_there(encoder, image.channels, arguments, describe)
    return Backbone(encoder=encoder, image=image, pooling=pooling, padding=padding)


def _encoder(network: str, arguments: Arguments, ledger: Ledger) -> Timm | None:
    barred = [name for name in arguments if name in BARRED and name not in FIELDS]
    for name in barred:
        ledger.refuse(arguments.path(name), f"{name} cannot be handed to timm: {BARRED[name]}.", code="unused")
    fields = {name: arguments.get(name) for name in FIELDS if name in arguments}
    options = {name: arguments.get(name) for name in arguments if name not in FIELDS and name not in barred}
    all_fields = Arguments(
        arguments.owner, {**fields, "name": network, "features_only": True, "options": options}, arguments.paths
    )
    return declared(Timm, all_fields, ledger, f"timm/{network}")


def _image(channels: Any, frames: int | None, arguments: Arguments, ledger: Ledger) -> Image | None:
    try:
        return Image(channels=channels, frames=frames)
    except ValueError as error:
        ledger.refuse(arguments.path("in_chans"), f"in_chans: {error}.", code="value")
        return None


def _padded_as_there(encoder: Timm, channels: int, arguments: Arguments, describe: Describe) -> tuple[Timm, Padding]:
    """TerraTorch pads to twice the patch, which a fixed size need not be a multiple of; else it pads not at all."""
    facts = describe(encoder, channels)
    if isinstance(facts, Refusal):
        return encoder, Padding()
    patch = arguments.get("patch_size") or facts.patch
    multiple = twice(patch)
    fixed = [side for side in (facts.sizes.height, facts.sizes.width) if side is not None]
    if fixed:
        return encoder, Padding(multiple=multiple if all(side % multiple == 0 for side in fixed) else 1)
    if multiple % facts.sizes.multiple == 0:
        return encoder, Padding(multiple=multiple)
    unpadded = evolve(encoder, any_size=True)
    as_it_is = isinstance(describe(unpadded, channels), Refusal)
    return encoder if as_it_is else unpadded, Padding(multiple=multiple)


def twice(patch: int | tuple[int, ...] | list[int] | None) -> int:
    """The multiple that TerraTorch pads to for patches of this size; 1 where there are none."""
    if not patch:
        return 1
    sides = (patch,) if isinstance(patch, int) else tuple(patch)[-2:]
    return 2 * lcm(*sides)


_TEMPORAL = ("use_temporal", "temporal_pooling", "temporal_concat", "temporal_n_timestamps",
             "temporal_features_permute_op", "temporal_subset_lengths")  # fmt: skip


def temporal(arguments: Arguments, ledger: Ledger) -> tuple[int | None, tuple[Neck, ...], Arguments]:
    """The frames of the image, the neck that pools them, and the arguments without what says so.

    TerraTorch wraps the backbone; here an encoder of stills runs on each frame, and a neck pools what it gives.
    """
    rest = arguments.without(*_TEMPORAL)
    if not arguments.get("use_temporal", False):
        return None, (), rest
    pooling = arguments.get("temporal_pooling", "mean")
    lengths = arguments.get("temporal_subset_lengths")
    if arguments.get("temporal_concat") is not None:
        ledger.note(
            arguments.path("temporal_concat"), "TerraTorch ignores temporal_concat.", "temporal_pooling: concat"
        )
    frames = arguments.get("temporal_n_timestamps") or (sum(lengths) if lengths else 2 if pooling == "diff" else None)
    if frames is None:
        ledger.refuse(
            arguments.path("use_temporal"),
            "the number of frames has to be known.",
            f"say how many: {arguments.owner}_temporal_n_timestamps",
            code="missing",
        )
        return None, (), rest
    fields = Arguments(
        arguments.owner,
        {"pooling": pooling, "subset_lengths": lengths},
        {"pooling": arguments.path("temporal_pooling"), "subset_lengths": arguments.path("temporal_subset_lengths")},
    )
    if pooling == "keep" and lengths is None:
        return frames, (), rest
    neck = declared(TemporalPooling, fields, ledger)
    return frames, () if neck is None else (neck,), rest
