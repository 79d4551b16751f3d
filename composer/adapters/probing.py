"""Probe a network on the meta device for shapes, strides and image sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from fractions import Fraction
from functools import cache
from inspect import signature
from math import lcm, prod
from typing import Any

import torch
from attrs import define
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from composer.sizes import SizeConstraint


def find_patch_size(network: nn.Module) -> tuple[int, int] | None:
    """Height and width of a patch in pixels, as the first of a network's modules says that has one; None elsewhere."""
    for child in network.modules():
        patch = getattr(child, "patch_size", None)
        if type(patch) is int:
            return patch, patch
        if isinstance(patch, list | tuple) and patch:
            # One number stands for both sides, and the first of three is of the frames.
            return int(patch[-2:][0]), int(patch[-1])
    return None


class CPULinspace(TorchFunctionMode):
    """A context in which numbers at even distances have values, whatever the device: many networks have a rate for
    each block, and read it as a number.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """`func` of its arguments, on the CPU where it is `torch.linspace`."""
        return func(*args, **{**(kwargs or {}), **({"device": "cpu"} if func is torch.linspace else {})})


SHAPE_PRESERVING: frozenset[Callable[..., Any]] = frozenset(
    (F.dropout, F.relu, F.relu_, F.relu6, F.hardtanh, F.leaky_relu, F.silu, F.gelu,
     F.sigmoid, F.hardswish, F.hardsigmoid, torch.relu, torch.relu_, torch.sigmoid, Tensor.sigmoid, Tensor.sigmoid_)
)  # fmt: skip
"""What gives a tensor of the shape and memory format of its first argument."""


BROADCASTING: frozenset[Callable[..., Any]] = frozenset(
    (Tensor.add, Tensor.add_, Tensor.mul, Tensor.mul_, Tensor.sub, Tensor.div, torch.add, torch.mul)
)
"""The same, where the second argument can be spread over the first."""


NORMS: frozenset[Callable[..., Any]] = frozenset((F.batch_norm, F.group_norm, F.layer_norm))
"""What gives the same, if its weights are of the right shape."""


TRANSPOSED_CONVS: frozenset[Callable[..., Any]] = frozenset(
    (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
)
"""Convolutions whose channels torch does not compare on the meta device."""


class ShapeInferenceMode(TorchFunctionMode):
    """A context in which what keeps the shape and the memory format of a tensor gives that very tensor, uncomputed."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """`func` of its arguments, or the first of them where it is like the result."""
        if (func in SHAPE_PRESERVING and _is_plain(args[:1])) or (func in BROADCASTING and _is_plain(args[:2])):
            return args[0]
        if func in NORMS and args and isinstance(args[0], Tensor):
            given = {**dict(zip(_list_parameter_names(func), args, strict=False)), **(kwargs or {})}
            if func is F.layer_norm and _is_valid_layer_norm(args[0], given):
                return args[0].contiguous()
            if func is not F.layer_norm and _is_plain(args[:1]) and _is_valid_channel_norm(args[0], given):
                return args[0]
        if func in TRANSPOSED_CONVS and len(args) > 1:
            _check_channels(args[0], args[1])
        return func(*args, **(kwargs or {}))


@cache
def _list_parameter_names(func: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(signature(func).parameters)


def _is_valid_layer_norm(x: Tensor, given: Mapping[str, Any]) -> bool:
    """Whether a layer norm is made for the last axes of `x`."""
    shape = tuple(given["normalized_shape"])
    weights = (given.get("weight"), given.get("bias"))
    return tuple(x.shape[-len(shape) :]) == shape and all(w is None or tuple(w.shape) == shape for w in weights)


def _is_valid_channel_norm(x: Tensor, given: Mapping[str, Any]) -> bool:
    """Whether a batch norm, or a group norm, is made for the channels of `x`, and has more than one value to each."""
    groups = given.get("num_groups", 1)
    if x.dim() < 2 or given.get("training") or x.shape[1] % groups or x.numel() == groups:
        return False
    names = ("running_mean", "running_var", "weight", "bias")
    return all(given.get(name) is None or tuple(given[name].shape) == (x.shape[1],) for name in names)


def _check_channels(x: Tensor, weight: Tensor) -> None:
    channels = x.shape[1 - weight.dim()]
    if channels != weight.shape[0]:
        raise RuntimeError(
            f"Given transposed=1, weight of size {list(weight.shape)}, expected input{list(x.shape)} to have "
            f"{weight.shape[0]} channels, but got {channels} channels instead"
        )


def _is_plain(operands: Sequence[Any]) -> bool:
    """Whether the first operand is in one of the usual memory formats, and the others are spread over it."""
    if not operands or not isinstance(operands[0], Tensor):
        return False
    first = operands[0]
    usual = first.is_contiguous() or (first.dim() == 4 and first.is_contiguous(memory_format=torch.channels_last))
    return usual and all(
        _is_broadcastable(other.shape, first.shape) for other in operands[1:] if isinstance(other, Tensor)
    )


def _is_broadcastable(one: torch.Size, over: torch.Size) -> bool:
    pairs = zip(reversed(one), reversed(over), strict=False)
    return len(one) <= len(over) and all(mine in (1, theirs) for mine, theirs in pairs)


Grids = tuple[tuple[int, int], ...]
"""(rows, columns) of each level."""


GridFunction = Callable[[int, int], Grids | None]
"""The grids that a network gives for an image of (height, width); None where it raises."""


def find_strides_and_sizes(
    grids_at: GridFunction, size: tuple[int, int], reductions: tuple[int, ...]
) -> tuple[tuple[Fraction, ...], SizeConstraint] | None:
    """The exact strides of a network's levels, and the image sizes at which they hold.

    `size` is one that the network is known to take, `reductions` what it says of itself, which is only believed
    where it is found to be true: at two sizes that are not square, on odd and even grids. Block attention and the
    like ask for 2, 4 or 8 times the largest reduction. A network that takes no other size, or whose grids do not
    follow its strides, is described at `size` alone, where any grid is an exact ratio of the image. None where
    the two sides have different strides there.
    """
    step = lcm(*reductions)
    if step <= max(size):
        for multiple in (step, 2 * step, 4 * step, 8 * step):
            strides = _find_flexible_strides(grids_at, size, multiple)
            if strides is not None:
                return strides, SizeConstraint(
                    multiple=multiple, least=_find_min_side(grids_at, strides, multiple, max(size))
                )
    grids = grids_at(*size)
    strides = None if grids is None else _compute_strides(grids, *size)
    return None if strides is None else (strides, SizeConstraint(height=size[0], width=size[1]))


def _find_flexible_strides(grids_at: GridFunction, size: tuple[int, int], multiple: int) -> tuple[Fraction, ...] | None:
    odd = max(size) // multiple | 1
    one, other = (odd * multiple, (odd + 1) * multiple), ((odd + 1) * multiple, max(odd - 2, 1) * multiple)
    strides = _compute_strides_at(grids_at, *one)
    return strides if strides is not None and strides == _compute_strides_at(grids_at, *other) else None


def _compute_strides_at(grids_at: GridFunction, height: int, width: int) -> tuple[Fraction, ...] | None:
    grids = grids_at(height, width)
    return None if grids is None else _compute_strides(grids, height, width)


def _compute_strides(grids: Grids, height: int, width: int) -> tuple[Fraction, ...] | None:
    if any(Fraction(height, rows) != Fraction(width, columns) for rows, columns in grids):
        return None
    return tuple(Fraction(height, rows) for rows, _ in grids)


def _find_min_side(grids_at: GridFunction, strides: tuple[Fraction, ...], multiple: int, known: int) -> int:
    """The smallest multiple at which the network runs and keeps its strides."""
    for side in range(multiple, known, multiple):
        if _compute_strides_at(grids_at, side, side) == strides:
            return side
    return multiple * -(-known // multiple)


@define
class ShapeProbe:
    """Runs a network at image sizes that it may not take, and keeps what it raised, if it did, the last time."""

    encoder: nn.Module
    channels: int
    device: str
    axes: str
    widths: tuple[int, ...]
    error: Exception | None = None

    def compute_grids(self, height: int, width: int) -> Grids | None:
        """The grids of all levels for an image of (height, width), or None where the network does not take it."""
        self.error = None
        try:
            check_image_numbers(self.device, self.channels, height, width)
            with torch.no_grad(), ShapeInferenceMode() if self.device == "meta" else nullcontext():
                maps = self.encoder(torch.empty(1, self.channels, height, width, device=self.device))
        except Exception as error:  # whatever a network raises at a size that it does not take
            self.error = error
            return None
        # Some networks return garbage at a size they do not take, and its width gives them away.
        at = self.axes.split().index("c")
        fits = all(x.dim() == 4 and x.shape[at] == c for x, c in zip(maps, self.widths, strict=True))
        return tuple(_get_grid(x, self.axes) for x in maps) if fits else None


MAX_IMAGE_NUMBERS = 2**26
"""Numbers in an image that is computed on: a quarter of a gigabyte. A network makes many times as many of them."""


def check_image_numbers(device: str, *shape: int) -> None:
    """Raise MemoryError for an image that would take gigabytes to compute on. The meta device computes nothing."""
    if device != "meta" and prod(shape) > MAX_IMAGE_NUMBERS:
        raise MemoryError(f"an image of {prod(shape):,} numbers is more than the {MAX_IMAGE_NUMBERS:,} that are tried")


def _get_grid(x: Tensor, axes: str) -> tuple[int, int]:
    names_of_axes = axes.split()
    return x.shape[names_of_axes.index("h")], x.shape[names_of_axes.index("w")]
