"""TerraTorch's backbones in terms of composer's encoders, and how it pads images for them. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from math import lcm
from typing import Any

from attrs import evolve, field, frozen

from composer.contracts import Rejection
from composer.feature import Image
from composer.parts import Encoder, EncoderInfo, Neck, ProbedEncoder, Timm, get_part_name
from composer.parts.encoders import FORBIDDEN_TIMM_OPTIONS
from composer.sizes import Padding
from composer.terratorch.arguments import Arguments, Diagnostics, construct_part
from composer.terratorch.frames import parse_temporal_wrapper

Describe = Callable[[ProbedEncoder, int], EncoderInfo | Rejection]

_TERRATORCH_FAMILIES = "prithvi terramind clay dofa dinov3 satlas seco fmow ssl4eol ssl4eos12 heliofm"
TERRATORCH_PREFIXES = (*(f"{family}_" for family in _TERRATORCH_FAMILIES.split()), "IdentityBackbone", "UNet")
"""How the names of TerraTorch's own backbones begin."""

ENCODER_FIELDS = ("pretrained", "out_indices", "output_stride", "img_size")
"""The arguments of timm that are fields of an encoder, and not options."""

WEIGHT_ARGUMENTS = ("pretrained_cfg_overlay", "checkpoint_path")
"""The arguments of timm that name a file of weights."""

SHADOWED_NAMES = (
    "convnext_pico",
    *(f"convnextv2_{size}" for size in ("atto", "femto", "nano", "tiny", "base", "large", "huge")),
)
"""Names of timm that TerraTorch's own backbones hide, unless they are written `timm_…`; those cannot be built by it."""

TORCH_PADDING_MODES = {"reflect": "reflect", "replicate": "replicate", "constant": "zeros", "zeros": "zeros"}
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


def build_named_backbone(given: str, arguments: Arguments, ledger: Diagnostics, describe: Describe) -> Backbone | None:
    """The backbone of a name, which is looked for where TerraTorch looks: `timm_resnet50`, or `resnet50`.

    It is a network of timm as TerraTorch builds it: with `features_only`, and without padding where it has no patches.
    """
    source, _, short = given.partition("_")
    name = short if source in ("timm", "terratorch") else given
    if source == "terratorch" or _is_terratorch_backbone(name, describe):
        ledger.add_problem(
            "backbone",
            f"{name} is a backbone of TerraTorch's own, and composer knows timm's by name alone.",
            f'build it and hand in the module: backbone=BACKBONE_REGISTRY.build("{name}", …)',
            code="unknown",
        )
        return None
    frames, pooling, arguments = parse_temporal_wrapper(arguments, ledger)
    if arguments.get("features_only", True) is not True:
        message = "TerraTorch takes timm's networks with features_only alone."
        ledger.add_problem(arguments.path("features_only"), message, "leave it out", code="unused")
    channels = arguments.get("in_chans", 3)
    handed_on = arguments.without("features_only", "in_chans", "padding")
    if "padding" in arguments:
        message = "timm's networks take no padding, and TerraTorch hands it on to them."
        ledger.add_problem(arguments.path("padding"), message, "padding: {mode: …} in a spec", code="unused")
    encoder = _build_timm_encoder(name, handed_on, ledger)
    image = build_image(channels, frames, arguments, ledger)
    if encoder is None or image is None:
        return None
    facts = describe(encoder, image.channels)
    if isinstance(facts, Rejection):
        _report_rejection(encoder, facts, arguments, ledger)
        return None
    if given in SHADOWED_NAMES:
        ledger.add_note(
            "backbone", f"TerraTorch takes {name} for a backbone of its own, which its factory cannot build."
        )
    encoder, padding = _resolve_encoder_padding(encoder, facts, image.channels, arguments, describe)
    return Backbone(encoder=encoder, image=image, pooling=pooling, padding=padding)


def _is_terratorch_backbone(name: str, describe: Describe) -> bool:
    # Some are registered with timm where TerraTorch is imported.
    return name.startswith(TERRATORCH_PREFIXES) and isinstance(describe(Timm(name, features_only=True), 3), Rejection)


def _report_rejection(encoder: Timm, refusal: Rejection, arguments: Arguments, ledger: Diagnostics) -> None:
    """Say why there are no facts of a network: because it is none of timm's, or does not take its arguments."""
    name, bracket, position = (refusal.about or "").partition("[")
    path = arguments.paths.get(name, "backbone")
    path += bracket + position if path != "backbone" else ""
    got = f" (got {refusal.got})" if refusal.got else ""
    repair = refusal.repair
    if repair and refusal.about and path.startswith("backbone_"):
        repair = repair.replace(f"{refusal.about}: ", f"{path}: ")
    ledger.add_problem(path, f"{get_part_name(encoder)} {refusal.expected}{got}.", repair, refusal.code)


def _build_timm_encoder(network: str, arguments: Arguments, ledger: Diagnostics) -> Timm | None:
    barred = [name for name in arguments if name in FORBIDDEN_TIMM_OPTIONS and name not in ENCODER_FIELDS]
    for name in barred:
        repair = "backbone_pretrained: PATH" if name in WEIGHT_ARGUMENTS else None
        if repair and arguments.owner == "backbone_kwargs":
            repair = "backbone_kwargs: {pretrained: PATH}"
        ledger.add_problem(
            arguments.path(name), f"{name} cannot be handed to timm: {FORBIDDEN_TIMM_OPTIONS[name]}.", repair, "unused"
        )
    fields = {name: arguments.get(name) for name in ENCODER_FIELDS if name in arguments}
    options = {name: arguments.get(name) for name in arguments if name not in ENCODER_FIELDS and name not in barred}
    all_fields = Arguments(
        arguments.owner, {**fields, "name": network, "features_only": True, "options": options}, arguments.paths
    )
    return construct_part(Timm, all_fields, ledger, f"timm/{network}")


def build_image(channels: Any, frames: int | None, arguments: Arguments, ledger: Diagnostics) -> Image | None:
    """The image that a backbone is fed; None, and a problem, where there is none of so many channels."""
    try:
        return Image(channels=channels, frames=frames)
    except ValueError as error:
        ledger.add_problem(arguments.path("in_chans"), f"{error}.")
        return None


def _resolve_encoder_padding(
    encoder: Timm, facts: EncoderInfo, channels: int, arguments: Arguments, describe: Describe
) -> tuple[Timm, Padding]:
    """TerraTorch pads to twice the patch, which the size that a network takes need not be a multiple of.

    Where it is none, nothing runs there; else, and where there are no patches, this is what TerraTorch feeds it.
    """
    patch = arguments.get("patch_size") or facts.patch
    multiple = compute_padding_multiple(patch)
    fixed = [side for side in (facts.sizes.height, facts.sizes.width) if side is not None]
    if fixed:
        return encoder, Padding(multiple=multiple if all(side % multiple == 0 for side in fixed) else 1)
    if any(side % multiple for side in _find_native_size(encoder, facts, channels, describe)):
        return encoder, Padding()
    if multiple % facts.sizes.multiple == 0:
        return encoder, Padding(multiple=multiple)
    unpadded = evolve(encoder, any_size=True)
    as_it_is = isinstance(describe(unpadded, channels), Rejection)
    return encoder if as_it_is else unpadded, Padding(multiple=multiple)


_FIXED_SIZE_OPTIONS = {"dynamic_img_size": False, "strict_img_size": True}
"""How timm makes networks that are not told to take other image sizes than their own."""


def _find_native_size(encoder: Timm, facts: EncoderInfo, channels: int, describe: Describe) -> tuple[int, ...]:
    """The one size that a network takes in TerraTorch, where composer has turned a switch of it for other sizes."""
    turned = {name: _FIXED_SIZE_OPTIONS[name] for name, _ in facts.arguments if name in _FIXED_SIZE_OPTIONS}
    if not turned:
        return ()
    as_there = describe(evolve(encoder, options={**dict(encoder.options), **turned}), channels)
    if isinstance(as_there, Rejection) or as_there.sizes.height is None or as_there.sizes.width is None:
        return ()
    return as_there.sizes.height, as_there.sizes.width


def compute_padding_multiple(patch: int | tuple[int, ...] | list[int] | None) -> int:
    """The multiple that TerraTorch pads to for patches of this size; 1 where there are none."""
    if not patch:
        return 1
    sides = (patch,) if isinstance(patch, int) else tuple(patch)[-2:]
    return 2 * lcm(*sides)
