"""Live backbones in a call of the factory: what they give is found by running them once."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from torch import nn

from composer.adapters.patches import find_patch_size
from composer.feature import Image
from composer.parts import Encoder, Neck
from composer.sizes import Padding
from composer.terratorch.arguments import Arguments, Diagnostics
from composer.terratorch.backbones import TORCH_PADDING_MODES, Backbone, build_image, compute_padding_multiple
from composer.terratorch.frames import parse_temporal_wrapper
from composer.terratorch.looking import ProbedModule, probe_module

CHANNELS_REPAIR = "say how many channels it takes: backbone_in_chans=…"
CUSTOM_REPAIR = "declare what it gives: backbone=composer.Custom(module, features=[…], channels=…, sizes=…)"


def build_module_backbone(module: Any, arguments: Arguments, ledger: Diagnostics) -> Backbone | None:
    """A module as an encoder: used as it is, once a run over zeros has told what it gives.

    A module has `out_channels`, as TerraTorch asks. An encoder of composer's is taken at its word.
    """
    frames, pooling, rest = parse_temporal_wrapper(arguments, ledger)
    if isinstance(module, Encoder):
        return _build_encoder_backbone(module, frames, pooling, rest, ledger)
    told = rest.get("in_chans")
    _report_ignored_arguments(rest.without("in_chans"), ledger)
    stated = getattr(module, "out_channels", None)
    if not isinstance(module, nn.Module) or not isinstance(stated, list | tuple):
        got = f"{type(module).__name__} with out_channels {stated!r}" if isinstance(module, nn.Module) else repr(module)
        message = f"a backbone is the name of a network, or a module whose out_channels are a list (got {got})."
        ledger.add_problem("backbone", message, CUSTOM_REPAIR, code="type")
        return None
    padding = _parse_padding(find_patch_size(module), rest, ledger)
    look = probe_module(module, frames, told if type(told) is int else None)
    if not isinstance(look, ProbedModule):
        message = f"{type(module).__name__} was run to see what it gives, and {look}."
        ledger.add_problem(
            "backbone",
            message,
            CUSTOM_REPAIR if "in_chans" in rest else f"{CHANNELS_REPAIR}, or {CUSTOM_REPAIR}",
            code="module",
        )
        return None
    _check_out_channels(module, list(stated), look, ledger)
    sides = (look.encoder.sizes.height, look.encoder.sizes.width)
    unfit = any(side is not None and side % padding.multiple for side in sides)
    return Backbone(
        encoder=look.encoder,
        image=Image(channels=look.encoder.channels, frames=frames or look.encoder.frames),
        pooling=pooling,
        padding=evolve(padding, multiple=1) if unfit else padding,
        fallback=look.fallback,
    )


def _check_out_channels(module: Any, stated: list[Any], look: ProbedModule, ledger: Diagnostics) -> None:
    """Note that a backbone is not as it says, which is what TerraTorch builds the rest of the model for."""
    given = [feature.channels for feature in look.encoder.features]
    if given != stated:
        message = (
            f"{type(module).__name__} says in out_channels that it gives features of {stated} channels, and gives "
            f"{given}. TerraTorch builds for the former, composer for the latter."
        )
        ledger.add_note("backbone", message, f"set its out_channels to {given}")


def _build_encoder_backbone(
    encoder: Encoder, frames: int | None, pooling: tuple[Neck, ...], arguments: Arguments, ledger: Diagnostics
) -> Backbone | None:
    """An encoder of composer's. One that takes any number of channels is fed `in_chans`."""
    taken = getattr(encoder, "channels", None)
    _report_ignored_arguments(arguments if taken else arguments.without("in_chans"), ledger)
    image = build_image(
        taken or arguments.get("in_chans", 3), frames or getattr(encoder, "frames", None), arguments, ledger
    )
    padding = _parse_padding(None, arguments, ledger)
    return None if image is None else Backbone(encoder=encoder, image=image, pooling=pooling, padding=padding)


def _report_ignored_arguments(arguments: Arguments, ledger: Diagnostics) -> None:
    for name in arguments.without("padding", "patch_size"):
        ledger.add_note(arguments.path(name), f"TerraTorch ignores {name}: the backbone is made already.")


def _parse_padding(seen: tuple[int, int] | None, arguments: Arguments, ledger: Diagnostics) -> Padding:
    """As TerraTorch pads: for the patches that a call states, or else for those that are seen in the backbone."""
    mode, patch = arguments.get("padding", "reflect"), arguments.get("patch_size") or seen
    sides = [patch] if isinstance(patch, int) else patch
    if sides and (not isinstance(sides, list | tuple) or any(type(side) is not int or side < 1 for side in sides)):
        path = arguments.path("patch_size")
        ledger.add_problem(path, f"patch_size is a whole number, or a list of them (got {patch!r}).")
        return Padding()
    if mode is None:
        return Padding()
    if mode not in TORCH_PADDING_MODES:
        ledger.add_problem(
            arguments.path("padding"), f"padding is one of {', '.join(TORCH_PADDING_MODES)} (got {mode!r})."
        )
        return Padding()
    return Padding(mode=TORCH_PADDING_MODES[mode], multiple=compute_padding_multiple(patch))
