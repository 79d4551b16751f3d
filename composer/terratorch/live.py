"""Modules in place of names in a call of the factory."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from attrs import evolve, field, frozen
from torch import Tensor, nn

from composer.adapters.probing import find_patch_size
from composer.errors import format_error
from composer.layouts import VECTOR, Feature, Features
from composer.modules.base import module
from composer.modules.encoders import TransparentWrapper
from composer.parts import Decoder, Encoder
from composer.parts.base import contract
from composer.parts.rules import ContractResult, Outputs, Rejection, compute_exact_multiple
from composer.sizes import Padding, round_up
from composer.terratorch.backbones import (
    Backbone,
    build_image,
    compute_padding_multiple,
    parse_temporal_wrapper,
)
from composer.terratorch.calls import Arguments, Diagnostics
from composer.terratorch.probing import probe_module, run_on_zeros

PADDING_MODES = {"reflect": "reflect", "replicate": "replicate", "constant": "zeros", "zeros": "zeros"}
"""torch's padding modes, and their names here."""

CUSTOM_FIX = "declare its features: backbone=composer.Custom(module, features=[…], channels=…, sizes=…)"


def build_module_backbone(backbone: Any, arguments: Arguments, report: Diagnostics) -> Backbone | None:
    """Build the encoder of a module, or of an encoder of composer's, which is used as declared.

    A module has `out_channels`, as TerraTorch requires, and is run over zeros to find its features.
    """
    frames, pooling, rest = parse_temporal_wrapper(arguments, report)
    declared = isinstance(backbone, Encoder)
    channels = getattr(backbone, "channels", None) if declared else None
    used = {"padding", "patch_size", *(() if channels else ("in_chans",))}
    report.add_ignored(rest, (name for name in rest if name not in used), "the backbone is made already")
    padding = _parse_padding(None if declared else find_patch_size(backbone), rest, report)
    fallback = ()
    if not declared:
        probed = _probe_backbone(backbone, frames, rest, report)
        if probed is None:
            return None
        backbone, fallback = probed
        channels = backbone.channels
        if any(side is not None and side % padding.multiple for side in (backbone.sizes.height, backbone.sizes.width)):
            padding = evolve(padding, multiple=1)
    frames = frames or getattr(backbone, "frames", None)
    image = build_image(channels or rest.get("in_chans", 3), frames, rest, report)
    if image is None:
        return None
    return Backbone(encoder=backbone, image=image, pooling=pooling, padding=padding, fallback=fallback)


def _probe_backbone(backbone: Any, frames: int | None, arguments: Arguments, report: Diagnostics) -> Any:
    """Return a module as an encoder, and the necks of its hook; None, with a problem, where it is not a backbone."""
    name, stated, channels = type(backbone).__name__, getattr(backbone, "out_channels", None), arguments.get("in_chans")
    if not isinstance(stated, list | tuple):
        got = f"{name} with out_channels {stated!r}"
        message = f"a backbone is the name of a network, or a module whose out_channels are a list (got {got})."
        report.add_problem("backbone", message, CUSTOM_FIX, "type")
        return None
    probed = probe_module(backbone, frames, channels if type(channels) is int else None)
    if isinstance(probed, str):
        message = f"{name} was run to find its features, and {probed}."
        fix = f"say how many channels it takes: {arguments.format_path('in_chans')}=…, or {CUSTOM_FIX}"
        report.add_problem("backbone", message, fix, "features")
        return None
    widths = [feature.channels for feature in probed[0].features]
    if widths != list(stated):
        message = f"{name} has out_channels {list(stated)}, for which TerraTorch builds, and features of {widths}."
        report.add_note("backbone", message, f"set its out_channels to {widths}")
    return probed


def _parse_padding(found: tuple[int, int] | None, arguments: Arguments, report: Diagnostics) -> Padding:
    """Return TerraTorch's padding: for the patches that a call states, or else for those found in the backbone."""
    mode, patch = arguments.get("padding", "reflect"), arguments.get("patch_size") or found
    if mode is None:
        return Padding()
    if not isinstance(mode, str) or mode not in PADDING_MODES:
        message = f"padding is one of {', '.join(PADDING_MODES)} (got {mode!r})."
        report.add_problem(arguments.locate("padding"), message)
        return Padding()
    try:
        return Padding(mode=PADDING_MODES[mode], multiple=compute_padding_multiple(patch))
    except (TypeError, ValueError) as error:
        report.add_problem(arguments.locate("patch_size"), f"{error}.")
        return Padding()


PROBE_SIZES = ((4, 4), (4, 6))
"""The sizes at which a decoder is run, in cells of the coarsest grid: a square, and one that is not."""


@frozen(eq=False)
class ModuleDecoder(Decoder):
    """A module as a decoder: called with a list of tensors, it returns one map or one vector. It has no text."""

    module: nn.Module
    includes_head: bool = field(default=False, kw_only=True)


@contract.register(ModuleDecoder)
def _(decoder: ModuleDecoder, features: Features) -> ContractResult:
    exact = compute_exact_multiple(*features)
    borders = round_up(1, exact.multiple, exact.least) - exact.multiple
    sizes = [(rows * exact.multiple + borders, columns * exact.multiple + borders) for rows, columns in PROBE_SIZES]
    shapes = []
    for height, width in sizes:
        try:
            shapes.append(_compute_output_shape(decoder.module, features, height, width))
        except Exception as error:  # whatever a module raises for features that it does not take
            expected = f"takes these features, run over an image of {height} × {width}"
            return _make_rejection(expected, format_error(error))
    feature = _infer_feature(sizes, shapes)
    if feature is None:
        expected = "gives one map or one vector, of a stride that is the same at all sizes"
        return _make_rejection(expected, str([*zip(sizes, shapes, strict=True)]))
    return Outputs(features=[feature], sizes=exact)


def _make_rejection(expected: str, got: str) -> Rejection:
    fix = "declare a decoder of your own, and register its contract and module"
    return Rejection(code="features", kind="raises", expected=expected, got=got, fix=fix)


def _compute_output_shape(network: nn.Module, features: Features, height: int, width: int) -> tuple[int, ...]:
    return tuple(run_on_zeros(network, *(f.shape(2, height, width) for f in features), as_list=True).shape)


def _infer_feature(sizes: list[tuple[int, int]], shapes: list[tuple[int, ...]]) -> Feature | None:
    """Infer the output feature from two images of one height: the wider one has more columns, and as many rows."""
    (size, wider), (shape, shape_of_wider) = sizes, shapes
    if len(shape) == 2 and shape == shape_of_wider:
        return Feature(channels=shape[1], stride=None, axes=VECTOR)
    if len(shape) != 4 or shape[:3] != shape_of_wider[:3] or shape[3] >= shape_of_wider[3]:
        return None
    stride = Fraction(wider[1] - size[1], shape_of_wider[3] - shape[3])
    offset, other = (side - cells * stride for side, cells in zip(size, shape[2:], strict=True))
    whole = (offset / stride).denominator == 1 and offset == other
    return Feature(channels=shape[1], stride=stride, offset=offset) if whole else None


class ListInputWrapper(TransparentWrapper):
    """A module that is called with a list of tensors of its own, which it may change."""

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the one tensor of the module, in a tuple."""
        out: Any = self.network([x.clone() for x in features])
        return (out,)


@module.register(ModuleDecoder)
def _(decoder: ModuleDecoder, _: Features) -> nn.Module:
    return ListInputWrapper(decoder.module)
