"""Run a module over zeros, and infer the features that it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from composer.adapters.probing import ShapeProbe, find_patch_size, find_strides_and_sizes
from composer.adapters.rounding import RoundingMismatch, infer_rounding
from composer.errors import format_error
from composer.layouts import CHANNELS_LAST, MAP, TOKENS
from composer.modules.base import SeededGenerator
from composer.modules.base import module as module_of
from composer.modules.encoders import use_eval_mode
from composer.parts import Custom, Neck, PermuteDims, ReshapeTokensToImage, SelectIndices

DEFAULT_SIDE = 224
"""The side in pixels that is tried for a module without an image size."""


def run_on_zeros(network: nn.Module, *shapes: Sequence[int], as_list: bool = False) -> Any:
    """Return the output for zeros of these shapes, in eval mode and without gradients.

    The weights, the mode and torch's random state stay as they are. With `as_list` the inputs are one argument.
    """
    parameter = next(network.parameters(), torch.empty(0))
    zeros = [torch.zeros(*shape, dtype=parameter.dtype, device=parameter.device) for shape in shapes]
    with torch.no_grad(), SeededGenerator(), use_eval_mode(network):
        return network(zeros) if as_list else network(*zeros)


def probe_module(network: Any, frames: int | None, channels: int | None) -> tuple[Custom, tuple[Neck, ...]] | str:
    """Return a module as an encoder, and the necks that do what its own hook does; or why it is not one.

    `frames` is given where the module runs on each frame. `channels` is the stated number of channels; without it,
    those that the layers of the module take are tried. The module is run at the image size that it states, or 224.
    """
    reasons = []
    for shape in _iter_image_shapes(network, frames, channels):
        try:
            out = run_on_zeros(network, (1, *shape))
        except Exception as error:  # whatever a network raises for an image that it does not take
            reasons.append(f"it raised {format_error(error)}")
            continue
        levels = [out] if isinstance(out, Tensor) else out
        found = _describe_encoder(network, shape, levels) if _are_tensors(levels) else None
        if found is not None:
            return found, _find_hook_necks(network, found, list(levels), shape[-2:])
        shapes = [tuple(x.shape) for x in levels] if _are_tensors(levels) else type(out).__name__
        reasons.append(f"it gave {shapes} in place of maps or tokens that follow the size of the image")
    # The likeliest image came first.
    return reasons[0]


def _are_tensors(levels: Any) -> bool:
    return isinstance(levels, list | tuple) and len(levels) > 0 and all(isinstance(x, Tensor) for x in levels)


def _iter_image_shapes(network: nn.Module, frames: int | None, channels: int | None) -> Iterator[tuple[int, ...]]:
    """Yield (c, h, w) and (c, t, h, w) of images that a module might take, the likeliest first."""
    size = _find_image_size(network)
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


def _find_image_size(network: nn.Module) -> tuple[int, int]:
    for child in network.modules():
        size = getattr(child, "img_size", None)
        sides = [size, size] if type(size) is int else size
        if isinstance(sides, list | tuple) and len(sides) >= 2 and all(type(side) is int for side in sides):
            return sides[-2], sides[-1]
    return DEFAULT_SIDE, DEFAULT_SIDE


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
    probe = ShapeProbe(
        lambda image: _run_levels(network, image),
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


def _run_levels(network: nn.Module, image: Tensor) -> list[Tensor]:
    out = run_on_zeros(network, image.shape)
    return [out] if isinstance(out, Tensor) else list(out)


def _find_hook_necks(network: Any, encoder: Custom, levels: list[Tensor], size: tuple[int, ...]) -> tuple[Neck, ...]:
    """Return the necks that do what `prepare_features_for_image_model` does, which TerraTorch calls without necks.

    It lays tokens out as maps, some of all levels and some of the last one alone, and guesses a square grid; or it
    brings the channels of maps to the front.
    """
    prepare: Callable[[list[Tensor]], Any] | None = getattr(network, "prepare_features_for_image_model", None)
    if prepare is None:
        return ()
    try:
        prepared = list(prepare(list(levels)))
    except Exception:  # its guess of the grid need not fit its own tokens
        prepared = []
    if not any(f.axes == TOKENS for f in encoder.features):
        permuted = [x.permute(0, 3, 1, 2) for x in levels if x.dim() == 4]
        return (PermuteDims(new_order=[0, 3, 1, 2]),) if _are_equal(prepared, permuted) else ()
    reshape = ReshapeTokensToImage()
    maps = module_of(reshape, encoder.features)(levels, image_size=size)
    last_alone = len(maps) > 1 and _are_equal(prepared, maps[-1:])
    return (SelectIndices(indices=[-1]), reshape) if last_alone else (reshape,)


def _are_equal(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(some) == len(others) > 0 and all(map(torch.equal, some, others))
