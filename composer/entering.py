"""How images enter a model: looked at, and padded to a size that the graph takes. H and W count reference pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor

from composer.modules.padding import pad_axis
from composer.plan import Input
from composer.sizes import round_up
from composer.typed import Typed, too_large

Sides = tuple[int, int]
"""Height and width, or top and left, in reference pixels: integers, or symbols while a model is exported."""


class Frame(NamedTuple):
    """An image of `size` inside of a padded one of `padded`, where it begins at `before`."""

    size: Sides
    padded: Sides
    before: Sides


def images_of(inputs: tuple[Input, ...], image: Tensor | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The images by input. Raises ValueError where they are not those that the inputs ask for, naming what would do."""
    names = [one.name for one in inputs]
    images = {names[0]: image} if isinstance(image, Tensor) and len(names) == 1 else image
    if not isinstance(images, Mapping) or set(images) != set(names):
        wanted = "one tensor, or a dict with one named" if len(names) == 1 else "a dict of images named"
        raise ValueError(f"the model takes {wanted} {', '.join(names)} (got {_given(image)})")
    for one in inputs:
        x = images[one.name]
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        if not isinstance(x, Tensor) or x.dim() != one.dims or not _has_sizes(x, one) or 0 in x.shape[-2:]:
            raise ValueError(f"{one.name} must be of shape {one.shape} (got {shape})")
    for one in inputs[1:]:
        # torch would spread a single image over the others.
        counts = images[one.name].shape[0], images[names[0]].shape[0]
        if counts[0] != counts[1]:
            raise ValueError(f"{one.name} must have as many images as {names[0]} (got {counts[0]} and {counts[1]})")
    return images


def frame_of(inputs: tuple[Input, ...], images: Mapping[str, Tensor], typed: Typed, unit: int) -> Frame:
    """The frame of images that cover the same ground. Raises ValueError where they do not, or are too large."""
    first = inputs[0]
    height, width = (images[first.name].shape[axis] * first.numerator // first.denominator for axis in (-2, -1))
    for one in inputs:
        _check_cover(one, images[one.name], first.name, height, width)
    return frame_around((height, width), typed, unit)


def frame_around(size: Sides, typed: Typed, unit: int) -> Frame:
    """The frame of an image of this size. `unit` is the typed graph's.

    Raises ValueError where the image is larger than the graph takes.
    """
    padded = _padded(typed, *size)
    before = typed.graph.padding.before
    top, left = (before(target - side, unit) for target, side in zip(padded, size, strict=True))
    return Frame(size, padded, (top, left))


def framed(one: Input, image: Tensor, frame: Frame, mode: str) -> Tensor:
    """An image, padded in its own pixels."""
    for axis, start, target in zip((-2, -1), frame.before, frame.padded, strict=True):
        cells = [pixels * one.denominator // one.numerator for pixels in (start, target)]
        image = pad_axis(image, axis, cells[0], cells[1], mode)
    return image


def _check_cover(one: Input, image: Tensor, first: str, height: int, width: int) -> None:
    shape = image.shape
    if one.numerator > 1 and one.denominator > 1 and any(side % one.denominator for side in shape[-2:]):
        raise ValueError(
            f"{one.name} has stride {one.numerator}/{one.denominator}, so its sides must be multiples of "
            f"{one.denominator} (got {shape[-2]} × {shape[-1]})"
        )
    reference = [side * one.numerator for side in shape[-2:]]
    if reference != [height * one.denominator, width * one.denominator]:
        raise ValueError(
            f"{one.name} must have {height * one.denominator / one.numerator:g} × "
            f"{width * one.denominator / one.numerator:g} pixels, to cover what {first} "
            f"covers (got {shape[-2]} × {shape[-1]})"
        )


def _padded(typed: Typed, height: int, width: int) -> Sides:
    sizes = typed.sizes
    if type(height) is int and type(width) is int:
        padded = sizes.nearest(height, width)
        if padded is None:
            raise ValueError(too_large(typed, height, width))
        return padded
    # Symbols: no branch may be taken on them, so the larger of two is left to torch.
    if sizes.square:
        height = width = _larger(height, width)
    multiple, least = sizes.multiple, sizes.least
    return (
        sizes.height or round_up(height, multiple, least, _larger),
        sizes.width or round_up(width, multiple, least, _larger),
    )


def _larger(one: int, other: int) -> int:
    """The larger of two symbols, without asking which it is unless their bounds do not tell."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return one if statically_known_true(one >= other) else cast(int, torch.sym_max(one, other))


def _has_sizes(x: Tensor, one: Input) -> bool:
    return all(x.shape[axis] == size for axis, size in one.fixed)


def _given(image: object) -> str:
    if isinstance(image, Mapping):
        return f"a dict of {', '.join(map(repr, image)) or 'nothing'}"
    return "one tensor" if isinstance(image, Tensor) else type(image).__name__
