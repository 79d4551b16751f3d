"""Modules in place of names in a call of the factory: they are run over zeros to infer their features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import islice
from typing import Any

import torch
from attrs import evolve, field, frozen
from torch import Tensor, nn

from composer.adapters.probing import ShapeProbe, find_patch_size, find_strides_and_sizes
from composer.adapters.rounding import RoundingMismatch, infer_rounding
from composer.errors import format_error
from composer.layouts import CHANNELS_LAST, MAP, TOKENS, VECTOR, Feature, Features
from composer.modules.base import SeededGenerator, module
from composer.modules.encoders import TransparentWrapper, use_eval_mode
from composer.parts import Custom, Decoder, Encoder, Neck, PermuteDims, ReshapeTokensToImage, SelectIndices
from composer.parts.base import contract
from composer.parts.rules import ContractResult, Outputs, Rejection, compute_exact_multiple
from composer.sizes import round_up
from composer.terratorch.backbones import Backbone, build_image, parse_padding, parse_temporal_wrapper
from composer.terratorch.calls import Arguments, Diagnostics

DEFAULT_SIDE = 224
"""The side in pixels that is tried for a module without an image size."""

_CUSTOM_FIX = "declare its features: backbone=composer.Custom(module, features=[…], channels=…, sizes=…)"


def run_on_zeros(network: nn.Module, *shapes: Sequence[int], as_list: bool = False) -> Any:
    """Return the output for zeros of these shapes, in eval mode and without gradients.

    The weights, the mode and torch's random state stay as they are. With `as_list` the inputs are one argument.
    """
    parameter = next(network.parameters(), torch.empty(0))
    zeros = [torch.zeros(*shape, dtype=parameter.dtype, device=parameter.device) for shape in shapes]
    with torch.no_grad(), SeededGenerator(), use_eval_mode(network):
        return network(zeros) if as_list else network(*zeros)


def build_module_backbone(backbone: Any, arguments: Arguments, report: Diagnostics) -> Backbone | None:
    """Build the encoder of a module, or of an encoder of composer's, which is used as declared.

    A module has `out_channels`, as TerraTorch requires, and is run over zeros to find its features.
    """
    frames, pooling, rest = parse_temporal_wrapper(arguments, report)
    declared = isinstance(backbone, Encoder)
    channels = getattr(backbone, "channels", None) if declared else None
    used = {"padding", "patch_size", *(() if channels else ("in_chans",))}
    report.add_ignored(rest, (name for name in rest if name not in used), "the backbone is made already")
    padding = parse_padding(None if declared else find_patch_size(backbone), rest, report)
    fallback: tuple[Neck, ...] = ()
    if not declared:
        probed = _probe_backbone(backbone, frames, rest, report)
        if probed is None:
            return None
        backbone, fallback = probed
        channels = backbone.channels
        if any(side is not None and side % padding.multiple for side in (backbone.sizes.height, backbone.sizes.width)):
            padding = evolve(padding, multiple=1)
    frames = frames or getattr(backbone, "frames", None)
    images = {"": ("image", build_image(channels or rest.get("in_chans", 3), frames, rest, report))}
    return Backbone(encoder=backbone, images=images, pooling=pooling, padding=padding, fallback=fallback)


def _probe_backbone(
    network: Any, frames: int | None, arguments: Arguments, report: Diagnostics
) -> tuple[Custom, tuple[Neck, ...]] | None:
    """Return a module as an encoder, and the necks that do what its own hook does; None, with a problem, for others.

    `frames` is given where the module runs on each frame. It is run at the image size that it states, or 224, with the
    stated number of channels, or with those that its layers take.
    """
    name, stated, channels = type(network).__name__, getattr(network, "out_channels", None), arguments.get("in_chans")
    if not isinstance(stated, list | tuple):
        got = f"{name} with out_channels {stated!r}"
        message = f"a backbone is the name of a network, or a module whose out_channels are a list (got {got})."
        report.add_problem("backbone", message, _CUSTOM_FIX, "type")
        return None
    reasons = []
    for shape in _iter_image_shapes(network, frames, channels if type(channels) is int else None):
        try:
            out = run_on_zeros(network, (1, *shape))
        except Exception as error:  # whatever a network raises for an image that it does not take
            reasons.append(f"it raised {format_error(error)}")
            continue
        levels = [out] if isinstance(out, Tensor) else out
        are_tensors = isinstance(levels, list | tuple) and levels and all(isinstance(x, Tensor) for x in levels)
        found = _describe_encoder(network, shape, levels) if are_tensors else None
        if found is not None:
            widths = [feature.channels for feature in found.features]
            if widths != list(stated):
                message = f"{name} has out_channels {list(stated)}, for which TerraTorch builds, and features of"
                report.add_note("backbone", f"{message} {widths}.", f"set its out_channels to {widths}")
            return found, _find_hook_necks(network, found, list(levels), shape[-2:])
        shapes = [tuple(x.shape) for x in levels] if are_tensors else type(out).__name__
        reasons.append(f"it gave {shapes} in place of maps or tokens that follow the size of the image")
    # The likeliest image came first.
    message = f"{name} was run to find its features, and {reasons[0]}."
    fix = f"say how many channels it takes: {arguments.format_path('in_chans')}=…, or {_CUSTOM_FIX}"
    report.add_problem("backbone", message, fix, "features")
    return None


def _iter_image_shapes(network: nn.Module, frames: int | None, channels: int | None) -> Iterator[tuple[int, ...]]:
    """Yield (c, h, w) and (c, t, h, w) of images that a module might take, the likeliest first."""
    sizes = (getattr(child, "img_size", None) for child in network.modules())
    pairs = ([size, size] if type(size) is int else size for size in sizes)
    stated = (p for p in pairs if isinstance(p, list | tuple) and len(p) >= 2 and all(type(side) is int for side in p))
    size = tuple(next(stated, (DEFAULT_SIDE, DEFAULT_SIDE))[-2:])
    together = next(_iter_attributes(network, "num_frames"), None)
    for count in dict.fromkeys([channels] if channels else [*_iter_channels(network), 3]):
        yield count, *size
        if frames is None and together:
            yield count, together, *size


def _iter_attributes(network: nn.Module, *names: str) -> Iterator[int]:
    for child in network.modules():
        yield from (count for name in names if type(count := getattr(child, name, None)) is int)


def _iter_channels(network: nn.Module) -> Iterator[int]:
    """Yield the stated channels, then those of the first layer: a convolution, or a linear layer over a patch."""
    yield from islice(_iter_attributes(network, "in_chans", "in_channels"), 1)
    patch = find_patch_size(network)
    for child in network.modules():
        if isinstance(child, nn.Conv2d | nn.Conv3d):
            yield child.in_channels
            return
        if isinstance(child, nn.Linear) and patch is not None:
            count, rest = divmod(child.in_features, patch[0] * patch[1])
            if count and not rest:
                yield count
                return


def _describe_encoder(network: Any, shape: tuple[int, ...], levels: Sequence[Tensor]) -> Custom | None:
    """Return a module as an encoder, from its levels for an image of this shape; None for other tensors."""
    channels, *frames, height, width = shape
    patch = find_patch_size(network)
    tokens = [x.shape[1] for x in levels if x.dim() == 3]
    if tokens and patch is None:
        return None
    # The stated channels identify a channels-last map; in doubt it is the usual layout.
    stated = zip(levels, network.out_channels, strict=False)
    last = any(x.dim() == 4 and x.shape[1] != count == x.shape[3] for x, count in stated)
    cells = (height // patch[0]) * (width // patch[1]) if patch else 1

    def run_levels(image: Tensor) -> list[Tensor]:
        out = run_on_zeros(network, image.shape)
        return [out] if isinstance(out, Tensor) else list(out)

    probe = ShapeProbe(
        run_levels,
        channels,
        "cpu",
        CHANNELS_LAST if last else MAP,
        patch=patch,
        frames=frames[0] if frames else None,
        token_frames=max(tokens[0] // cells, 1) if tokens else 1,
    )
    found = find_strides_and_sizes(probe.compute_grids, (height, width))
    if found is None:
        return None
    strides, sizes = found
    features = probe.build_features(strides)
    if patch is None and sizes.height is None:
        # TerraTorch pads for patches alone, so that other networks are fed images of any size.
        known = 2 * max(sizes.multiple, sizes.least)
        rounded = infer_rounding(probe.compute_grids, features, sizes, known)
        features, sizes = (features, sizes) if isinstance(rounded, RoundingMismatch) else rounded
    return Custom(network, features=features, channels=channels, sizes=sizes, frames=probe.frames)


def _find_hook_necks(network: Any, encoder: Custom, levels: list[Tensor], size: tuple[int, ...]) -> tuple[Neck, ...]:
    """Return the necks that do what `prepare_features_for_image_model` does, which TerraTorch calls without necks.

    It lays tokens out as maps, some of all levels and some of the last one alone, and guesses a square grid; or it
    brings the channels of maps to the front.
    """
    if not hasattr(network, "prepare_features_for_image_model"):
        return ()
    prepared: list[Tensor] = []
    with suppress(Exception):  # its guess of the grid need not fit its own tokens
        prepared = list(network.prepare_features_for_image_model(list(levels)))
    if not any(f.axes == TOKENS for f in encoder.features):
        permuted = [x.permute(0, 3, 1, 2) for x in levels if x.dim() == 4]
        return (PermuteDims(new_order=[0, 3, 1, 2]),) if _are_equal(prepared, permuted) else ()
    reshape = ReshapeTokensToImage()
    maps = module(reshape, encoder.features)(levels, image_size=size)
    last_alone = len(maps) > 1 and _are_equal(prepared, maps[-1:])
    return (SelectIndices(indices=[-1]), reshape) if last_alone else (reshape,)


def _are_equal(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(some) == len(others) > 0 and all(map(torch.equal, some, others))


@frozen(eq=False)
class ModuleDecoder(Decoder):
    """A module as a decoder: called with a list of tensors, it returns one map or one vector. It has no text."""

    module: nn.Module
    includes_head: bool = field(default=False, kw_only=True)


@contract.register(ModuleDecoder)
def _(decoder: ModuleDecoder, features: Features) -> ContractResult:
    exact = compute_exact_multiple(*features)
    borders = round_up(1, exact.multiple, exact.least) - exact.multiple
    # A square, and an image that is not.
    sizes = [(4 * exact.multiple + borders, columns * exact.multiple + borders) for columns in (4, 6)]
    shapes: list[tuple[int, ...]] = []
    for size in sizes:
        try:
            shapes.append(
                tuple(run_on_zeros(decoder.module, *(f.shape(2, *size) for f in features), as_list=True).shape)
            )
        except Exception as error:  # whatever a module raises for features that it does not take
            expected = f"takes these features, run over an image of {size[0]} × {size[1]}"
            return _reject_module(expected, format_error(error))
    feature = _infer_feature(sizes, shapes)
    if feature is None:
        expected = "gives one map or one vector, of a stride that is the same at all sizes"
        return _reject_module(expected, str([*zip(sizes, shapes, strict=True)]))
    return Outputs(features=[feature], sizes=exact)


def _reject_module(expected: str, got: str) -> Rejection:
    fix = "declare a decoder of your own, and register its contract and module"
    return Rejection(code="features", kind="raises", expected=expected, got=got, fix=fix)


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
