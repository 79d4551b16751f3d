"""Live backbones in a call of the factory: what they give is found by running them once."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from torch import nn

from composer.adapters.patches import patch_of
from composer.feature import Image
from composer.parts import Encoder, Neck
from composer.sizes import Padding
from composer.terratorch.arguments import Arguments, Ledger
from composer.terratorch.backbones import MODES, Backbone, image_of, twice
from composer.terratorch.frames import temporal
from composer.terratorch.looking import Look, look_at

STATE = "say how many channels it takes: backbone_in_chans=…"
REPAIR = "declare what it gives: backbone=composer.Custom(module, features=[…], channels=…, sizes=…)"


def live_backbone(module: Any, arguments: Arguments, ledger: Ledger) -> Backbone | None:
    """A module as an encoder: used as it is, once a run over zeros has told what it gives.

    A module has `out_channels`, as TerraTorch asks. An encoder of composer's is taken at its word.
    """
    frames, pooling, rest = temporal(arguments, ledger)
    if isinstance(module, Encoder):
        return _declared(module, frames, pooling, rest, ledger)
    told = rest.get("in_chans")
    _ignored(rest.without("in_chans"), ledger)
    stated = getattr(module, "out_channels", None)
    if not isinstance(module, nn.Module) or not isinstance(stated, list | tuple):
        got = f"{type(module).__name__} with out_channels {stated!r}" if isinstance(module, nn.Module) else repr(module)
        message = f"a backbone is the name of a network, or a module whose out_channels are a list (got {got})."
        ledger.refuse("backbone", message, REPAIR, code="type")
        return None
    padding = _padding(patch_of(module), rest, ledger)
    look = look_at(module, frames, told if type(told) is int else None)
    if not isinstance(look, Look):
        message = f"{type(module).__name__} was run to see what it gives, and {look}."
        ledger.refuse("backbone", message, REPAIR if "in_chans" in rest else f"{STATE}, or {REPAIR}", code="module")
        return None
    _as_stated(module, list(stated), look, ledger)
    sides = (look.encoder.sizes.height, look.encoder.sizes.width)
    unfit = any(side is not None and side % padding.multiple for side in sides)
    return Backbone(
        encoder=look.encoder,
        image=Image(channels=look.encoder.channels, frames=frames or look.encoder.frames),
        pooling=pooling,
        padding=evolve(padding, multiple=1) if unfit else padding,
        fallback=look.fallback,
    )


def _as_stated(module: Any, stated: list[Any], look: Look, ledger: Ledger) -> None:
    """Note that a backbone is not as it says, which is what TerraTorch builds the rest of the model for."""
    given = [feature.channels for feature in look.encoder.features]
    if given != stated:
        message = (
            f"{type(module).__name__} says in out_channels that it gives features of {stated} channels, and gives "
            f"{given}. TerraTorch builds for the former, composer for the latter."
        )
        ledger.note("backbone", message, f"set its out_channels to {given}")


def _declared(
    encoder: Encoder, frames: int | None, pooling: tuple[Neck, ...], arguments: Arguments, ledger: Ledger
) -> Backbone | None:
    """An encoder of composer's. One that takes any number of channels is fed `in_chans`."""
    taken = getattr(encoder, "channels", None)
    _ignored(arguments if taken else arguments.without("in_chans"), ledger)
    image = image_of(
        taken or arguments.get("in_chans", 3), frames or getattr(encoder, "frames", None), arguments, ledger
    )
    padding = _padding(None, arguments, ledger)
    return None if image is None else Backbone(encoder=encoder, image=image, pooling=pooling, padding=padding)


def _ignored(arguments: Arguments, ledger: Ledger) -> None:
    for name in arguments.without("padding", "patch_size"):
        ledger.note(arguments.path(name), f"TerraTorch ignores {name}: the backbone is made already.")


def _padding(seen: tuple[int, int] | None, arguments: Arguments, ledger: Ledger) -> Padding:
    """As TerraTorch pads: for the patches that a call states, or else for those that are seen in the backbone."""
    mode, patch = arguments.get("padding", "reflect"), arguments.get("patch_size") or seen
    sides = [patch] if isinstance(patch, int) else patch
    if sides and (not isinstance(sides, list | tuple) or any(type(side) is not int or side < 1 for side in sides)):
        path = arguments.path("patch_size")
        ledger.refuse(path, f"patch_size is a whole number, or a list of them (got {patch!r}).")
        return Padding()
    if mode is None:
        return Padding()
    if mode not in MODES:
        ledger.refuse(arguments.path("padding"), f"padding is one of {', '.join(MODES)} (got {mode!r}).")
        return Padding()
    return Padding(mode=MODES[mode], multiple=twice(patch))
