"""TerraTorch's backbones in terms of composer's encoders, and how it pads images for them. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from math import lcm
from typing import Any

from attrs import evolve, field, frozen

from composer.contracts import Refusal
from composer.feature import Image
from composer.parts import Encoder, Facts, Neck, Probed, Timm, part_name
from composer.parts.encoders import BARRED
from composer.sizes import Padding
from composer.terratorch.arguments import Arguments, Ledger, declared
from composer.terratorch.frames import temporal

Describe = Callable[[Probed, int], Facts | Refusal]

_FAMILIES = "prithvi terramind clay dofa dinov3 satlas seco fmow ssl4eol ssl4eos12 heliofm"
OWN = (*(f"{family}_" for family in _FAMILIES.split()), "IdentityBackbone", "UNet")
"""How the names of TerraTorch's own backbones begin."""

FIELDS = ("pretrained", "out_indices", "output_stride", "img_size")
"""The arguments of timm that are fields of an encoder, and not options."""

WEIGHTS = ("pretrained_cfg_overlay", "checkpoint_path")
"""The arguments of timm that name a file of weights."""

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


def named_backbone(given: str, arguments: Arguments, ledger: Ledger, describe: Describe) -> Backbone | None:
    """The backbone of a name, which is looked for where TerraTorch looks: `timm_resnet50`, or `resnet50`.

    It is a network of timm as TerraTorch builds it: with `features_only`, and without padding where it has no patches.
    """
    source, _, short = given.partition("_")
    name = short if source in ("timm", "terratorch") else given
    if source == "terratorch" or _is_own(name, describe):
        ledger.refuse(
            "backbone",
            f"{name} is a backbone of TerraTorch's own, and composer knows timm's by name alone.",
            f'build it and hand in the module: backbone=BACKBONE_REGISTRY.build("{name}", …)',
            code="unknown",
        )
        return None
    frames, pooling, arguments = temporal(arguments, ledger)
    if arguments.get("features_only", True) is not True:
        message = "TerraTorch takes timm's networks with features_only alone."
        ledger.refuse(arguments.path("features_only"), message, "leave it out", code="unused")
    channels = arguments.get("in_chans", 3)
    handed_on = arguments.without("features_only", "in_chans", "padding")
    if "padding" in arguments:
        message = "timm's networks take no padding, and TerraTorch hands it on to them."
        ledger.refuse(arguments.path("padding"), message, "padding: {mode: …} in a spec", code="unused")
    encoder = _encoder(name, handed_on, ledger)
    image = image_of(channels, frames, arguments, ledger)
    if encoder is None or image is None:
        return None
    facts = describe(encoder, image.channels)
    if isinstance(facts, Refusal):
        _refused(encoder, facts, arguments, ledger)
        return None
    if given in SHADOWED:
        ledger.note("backbone", f"TerraTorch takes {name} for a backbone of its own, which its factory cannot build.")
    encoder, padding = _padded_as_there(encoder, facts, image.channels, arguments, describe)
    return Backbone(encoder=encoder, image=image, pooling=pooling, padding=padding)


def _is_own(name: str, describe: Describe) -> bool:
    # Some are registered with timm where TerraTorch is imported.
    return name.startswith(OWN) and isinstance(describe(Timm(name, features_only=True), 3), Refusal)


def _refused(encoder: Timm, refusal: Refusal, arguments: Arguments, ledger: Ledger) -> None:
    """Say why there are no facts of a network: because it is none of timm's, or does not take its arguments."""
    name, bracket, position = (refusal.about or "").partition("[")
    path = arguments.paths.get(name, "backbone")
    path += bracket + position if path != "backbone" else ""
    got = f" (got {refusal.got})" if refusal.got else ""
    repair = refusal.repair
    if repair and refusal.about and path.startswith("backbone_"):
        repair = repair.replace(f"{refusal.about}: ", f"{path}: ")
    ledger.refuse(path, f"{part_name(encoder)} {refusal.expected}{got}.", repair, refusal.code)


def _encoder(network: str, arguments: Arguments, ledger: Ledger) -> Timm | None:
    barred = [name for name in arguments if name in BARRED and name not in FIELDS]
    for name in barred:
        repair = "backbone_pretrained: PATH" if name in WEIGHTS else None
        if repair and arguments.owner == "backbone_kwargs":
            repair = "backbone_kwargs: {pretrained: PATH}"
        ledger.refuse(arguments.path(name), f"{name} cannot be handed to timm: {BARRED[name]}.", repair, "unused")
    fields = {name: arguments.get(name) for name in FIELDS if name in arguments}
    options = {name: arguments.get(name) for name in arguments if name not in FIELDS and name not in barred}
    all_fields = Arguments(
        arguments.owner, {**fields, "name": network, "features_only": True, "options": options}, arguments.paths
    )
    return declared(Timm, all_fields, ledger, f"timm/{network}")


def image_of(channels: Any, frames: int | None, arguments: Arguments, ledger: Ledger) -> Image | None:
    """The image that a backbone is fed; None, and a problem, where there is none of so many channels."""
    try:
        return Image(channels=channels, frames=frames)
    except ValueError as error:
        ledger.refuse(arguments.path("in_chans"), f"{error}.")
        return None


def _padded_as_there(
    encoder: Timm, facts: Facts, channels: int, arguments: Arguments, describe: Describe
) -> tuple[Timm, Padding]:
    """TerraTorch pads to twice the patch, which the size that a network takes need not be a multiple of.

    Where it is none, nothing runs there; else, and where there are no patches, this is what TerraTorch feeds it.
    """
    patch = arguments.get("patch_size") or facts.patch
    multiple = twice(patch)
    fixed = [side for side in (facts.sizes.height, facts.sizes.width) if side is not None]
    if fixed:
        return encoder, Padding(multiple=multiple if all(side % multiple == 0 for side in fixed) else 1)
    if any(side % multiple for side in _native(encoder, facts, channels, describe)):
        return encoder, Padding()
    if multiple % facts.sizes.multiple == 0:
        return encoder, Padding(multiple=multiple)
    unpadded = evolve(encoder, any_size=True)
    as_it_is = isinstance(describe(unpadded, channels), Refusal)
    return encoder if as_it_is else unpadded, Padding(multiple=multiple)


_SWITCHES = {"dynamic_img_size": False, "strict_img_size": True}
"""How timm makes networks that are not told to take other image sizes than their own."""


def _native(encoder: Timm, facts: Facts, channels: int, describe: Describe) -> tuple[int, ...]:
    """The one size that a network takes in TerraTorch, where composer has turned a switch of it for other sizes."""
    turned = {name: _SWITCHES[name] for name, _ in facts.arguments if name in _SWITCHES}
    if not turned:
        return ()
    as_there = describe(evolve(encoder, options={**dict(encoder.options), **turned}), channels)
    if isinstance(as_there, Refusal) or as_there.sizes.height is None or as_there.sizes.width is None:
        return ()
    return as_there.sizes.height, as_there.sizes.width


def twice(patch: int | tuple[int, ...] | list[int] | None) -> int:
    """The multiple that TerraTorch pads to for patches of this size; 1 where there are none."""
    if not patch:
        return 1
    sides = (patch,) if isinstance(patch, int) else tuple(patch)[-2:]
    return 2 * lcm(*sides)
