"""Live backbones in a call of the factory: what they give is found by running them once."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from torch import nn

from composer.adapters.patches import patch_of
from composer.feature import Image
from composer.parts import Encoder
from composer.sizes import Padding
from composer.terratorch.arguments import Arguments, Ledger
from composer.terratorch.backbones import MODES, Backbone, temporal, twice
from composer.terratorch.looking import Look, look_at

REPAIR = "declare what it gives: backbone=composer.Custom(module, features=[…], channels=…, sizes=…)"


def live_backbone(module: Any, arguments: Arguments, ledger: Ledger) -> Backbone | None:
    """A module as an encoder: used as it is, once a run over zeros has told what it gives.

    A module has `out_channels`, as TerraTorch asks. An encoder of composer's is taken at its word.
    """
    frames, pooling, rest = temporal(arguments, ledger)
    for name in rest.without("padding", "patch_size"):
        ledger.note(rest.path(name), f"TerraTorch ignores {name}: the backbone is made already.")
    padding = _padding(module, rest, ledger)
    if isinstance(module, Encoder):
        image = Image(channels=getattr(module, "channels", 3), frames=frames or getattr(module, "frames", None))
        return Backbone(encoder=module, image=image, pooling=pooling, padding=padding)
    if not isinstance(module, nn.Module) or not hasattr(module, "out_channels"):
        ledger.refuse("backbone", "a backbone is the name of a network, or a module with out_channels.", REPAIR)
        return None
    look = look_at(module, frames)
    if not isinstance(look, Look):
        ledger.refuse("backbone", f"{type(module).__name__} was run to see what it gives, and {look}.", REPAIR)
        return None
    sides = (look.encoder.sizes.height, look.encoder.sizes.width)
    unfit = any(side is not None and side % padding.multiple for side in sides)
    return Backbone(
        encoder=look.encoder,
        image=Image(channels=look.encoder.channels, frames=frames or look.encoder.frames),
        pooling=pooling,
        padding=evolve(padding, multiple=1) if unfit else padding,
        fallback=look.fallback,
    )


def _padding(module: Any, arguments: Arguments, ledger: Ledger) -> Padding:
    mode = arguments.get("padding", "reflect")
    if mode not in MODES:
        ledger.refuse(arguments.path("padding"), f"padding is one of {', '.join(MODES)} (got {mode!r}).", code="value")
        mode = "reflect"
    patch = arguments.get("patch_size")
    if patch is None and isinstance(module, nn.Module):
        patch = patch_of(module)
    return Padding(mode=MODES[mode], multiple=twice(patch))
