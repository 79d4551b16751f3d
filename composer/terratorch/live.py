"""Modules in place of names in a call of the factory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from typing import Any

import torch
from attrs import evolve, field, frozen
from torch import Tensor, nn

from composer.adapters.probing import find_patch_size
from composer.layouts import MAP, VECTOR, Feature, Features, Image
from composer.modules import module
from composer.modules.base import SeededGenerator
from composer.modules.encoders import TransparentWrapper, use_eval_mode
from composer.parts import Decoder, Encoder, Neck
from composer.parts.base import contract
from composer.parts.rules import ContractResult, Outputs, Rejection, compute_exact_multiple
from composer.sizes import Padding, round_up
from composer.terratorch.backbones import (
    TORCH_PADDING_MODES,
    Backbone,
    build_image,
    compute_padding_multiple,
    parse_temporal_wrapper,
)
from composer.terratorch.calls import Arguments, Diagnostics
from composer.terratorch.probing import ProbedModule, probe_module

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


PROBE_SIZES = ((4, 4), (4, 6))
"""The sizes at which a decoder is tried, in the coarsest grid's cells: a square, and one that is not."""


@frozen(eq=False)
class ModuleDecoder(Decoder):
    """A module as a decoder: called with a list of tensors, it returns one map or one vector. It has no text."""

    module: nn.Module
    includes_head: bool = field(default=False, kw_only=True)


def build_module_decoder(decoder: Any, path: str, ledger: Diagnostics) -> ModuleDecoder | None:
    """The part for a module that is handed in. `includes_head` is the module's own word, which TerraTorch overlooks."""
    if not isinstance(decoder, nn.Module):
        ledger.add_problem(path, f"a decoder is the name of one, or a module (got {decoder!r}).", code="type")
        return None
    if getattr(decoder, "includes_head", False):
        ledger.add_note(
            path, "TerraTorch puts a head of its own behind this decoder, although it says that it includes one."
        )
    return ModuleDecoder(decoder, includes_head=bool(getattr(decoder, "includes_head", False)))


@contract.register(ModuleDecoder)
def _(decoder: ModuleDecoder, features: Features) -> ContractResult:
    multiple = compute_exact_multiple(*features).multiple
    borders = round_up(1, multiple, compute_exact_multiple(*features).least) - multiple
    tried = []
    for rows, columns in PROBE_SIZES:
        size = (rows * multiple + borders, columns * multiple + borders)
        try:
            tried.append((size, _compute_output_shape(decoder.module, features, *size)))
        except Exception as error:  # whatever a module raises for features that it does not take
            said = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
            return _make_rejection(f"takes these features, run over an image of {size[0]} × {size[1]}", said)
    given = _infer_feature(*tried)
    if given is None:
        return _make_rejection("gives one map or one vector, of a stride that is the same at all sizes", str(tried))
    on_a_grid = _match_input_grid(decoder.module, features, given, multiple)
    return (
        Outputs(features=[on_a_grid])
        if on_a_grid
        else Outputs(features=[given], sizes=compute_exact_multiple(*features))
    )


def _match_input_grid(network: nn.Module, features: Features, given: Feature, multiple: int) -> Feature | None:
    """What a decoder gives where it leaves its map on the grid of one that it takes, however that rounds; else None.

    TerraTorch does not pad for a network without patches, so that at most sizes its grids round.
    """
    grids = [f for f in features if f.axes == MAP and f.stride == given.stride and f.rounding != "exact"]
    if given.axes == VECTOR and any(f.rounding != "exact" for f in features):
        grids = [given]
    for grid in grids:
        found = evolve(grid, channels=given.channels)
        with suppress(Exception):  # whatever a module raises for grids that do not divide each other
            sizes = [
                (side, side + 2 * multiple + 1) for side in range(3 * multiple, 4 * multiple, max(multiple // 7, 1))
            ]
            if all(_compute_output_shape(network, features, *size) == found.shape(2, *size) for size in sizes):
                return found
    return None


def _compute_output_shape(network: nn.Module, features: Features, height: int, width: int) -> tuple[int, ...]:
    parameter = next(network.parameters(), torch.empty(0))
    zeros = [torch.zeros(f.shape(2, height, width), dtype=parameter.dtype, device=parameter.device) for f in features]
    with torch.no_grad(), SeededGenerator(), use_eval_mode(network):
        out = network(zeros)
    return tuple(out.shape)


ProbedShape = tuple[tuple[int, int], tuple[int, ...]]
"""The size of an image, and the shape of what a decoder gives for it."""


def _infer_feature(one: ProbedShape, other: ProbedShape) -> Feature | None:
    """What a decoder gives, by two images of one height: a wider image has more columns, and as many rows."""
    (size, shape), (wider, shape_of_wider) = one, other
    if len(shape) == 2 and shape == shape_of_wider:
        return Feature(channels=shape[1], stride=None, axes=VECTOR)
    if len(shape) != 4 or shape[:3] != shape_of_wider[:3] or shape[3] >= shape_of_wider[3]:
        return None
    stride = Fraction(wider[1] - size[1], shape_of_wider[3] - shape[3])
    offsets = {side - cells * stride for side, cells in zip(size, shape[2:], strict=True)}
    offset = offsets.pop()
    whole_strides = (offset / stride).denominator == 1
    return Feature(channels=shape[1], stride=stride, offset=offset) if whole_strides and not offsets else None


def _make_rejection(expected: str, got: str) -> Rejection:
    return Rejection(
        code="module",
        kind="raises",
        expected=expected,
        got=got,
        repair="declare a decoder of your own, and register its contract and module",
    )


class ListInputWrapper(TransparentWrapper):
    """A module that is called with a list of tensors of its own, which it may change."""

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Give the one tensor that the module gives."""
        out: Any = self.network([x.clone() for x in features])
        return (out,)


@module.register(ModuleDecoder)
def _(decoder: ModuleDecoder, _: Features) -> nn.Module:
    return ListInputWrapper(decoder.module)
