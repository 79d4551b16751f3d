"""How images enter a model: looked at, and padded to a size that the graph takes. H and W count reference pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from composer.modules.padding import pad_axis
from composer.plan import InputSpec
from composer.sizes import round_up
from composer.typed import TypedGraph, explain_too_large

Sides = tuple[int, int]
"""Height and width, or top and left, in reference pixels: integers, or symbols while a model is exported."""


class PadSpec(NamedTuple):
    """An image of `size` inside of a padded one of `padded`, where it begins at `before`."""

    size: Sides
    padded: Sides
    before: Sides


def validate_inputs(inputs: tuple[InputSpec, ...], image: Tensor | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the images by input. Raises ValueError where they do not match the inputs, with the next step."""
    names = [one.name for one in inputs]
    images = image if isinstance(image, Mapping) or len(names) > 1 else {names[0]: image}
    if not isinstance(images, Mapping) or set(images) != set(names):
        wanted = "one tensor, or a dict with one named" if len(names) == 1 else "a dict of images named"
        raise ValueError(f"the model takes {wanted} {', '.join(names)} (got {_describe_argument(image)})")
    for one in inputs:
        _check_image(one, images[one.name])
    for one in inputs[1:]:
        # torch would spread a single image over the others.
        counts = images[one.name].shape[0], images[names[0]].shape[0]
        if counts[0] != counts[1]:
            raise ValueError(f"{one.name} must have as many images as {names[0]} (got {counts[0]} and {counts[1]})")
    return images


def explain_weight_mismatch(images: Mapping[str, Tensor], weights: Iterable[Tensor]) -> str | None:
    """Describe an image that the weights cannot compute with, of another type or on another device; None if all fit."""
    weight = next((weight for weight in weights if weight.is_floating_point()), None)
    if weight is None:
        return None
    for name, x in images.items():
        target = [f'"{weight.device}"'] if x.device != weight.device else []
        if x.dtype != weight.dtype and not (_is_cast(x) and _is_cast(weight)):
            target.append(str(weight.dtype))
        if target:
            return (
                f"{name} is {x.dtype} on {x.device}, and the model's weights are {weight.dtype} on {weight.device}; "
                f"convert the image: {name}.to({', '.join(target)})"
            )
    return None


def _is_cast(x: Tensor) -> bool:
    """Whether autocast is on and converts such a tensor by itself. It converts no float64 and no integers."""
    device = x.device.type
    is_on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return is_on and x.dtype in (torch.float32, torch.get_autocast_dtype(device))


def compute_padding(
    inputs: tuple[InputSpec, ...], images: Mapping[str, Tensor], typed: TypedGraph, unit: int
) -> PadSpec:
    """The frame of images that cover the same ground. Raises ValueError where they do not, or are too large."""
    first = inputs[0]
    height, width = (images[first.name].shape[axis] * first.numerator // first.denominator for axis in (-2, -1))
    for one in inputs:
        _check_cover(one, images[one.name], first.name, height, width)
    return compute_padding_for_size((height, width), typed, unit)


def compute_padding_for_size(size: Sides, typed: TypedGraph, unit: int) -> PadSpec:
    """The frame of an image of this size. `unit` is the typed graph's.

    Raises ValueError where the image is larger than the graph takes.
    """
    padded = _compute_padded_size(typed, *size)
    before = typed.graph.padding.before
    top, left = (before(target - side, unit) for target, side in zip(padded, size, strict=True))
    return PadSpec(size, padded, (top, left))


def pad_input(one: InputSpec, image: Tensor, frame: PadSpec, mode: str) -> Tensor:
    """An image, padded in its own pixels."""
    for axis, start, target in zip((-2, -1), frame.before, frame.padded, strict=True):
        cells = [pixels * one.denominator // one.numerator for pixels in (start, target)]
        image = pad_axis(image, axis, cells[0], cells[1], mode)
    return image


def _check_cover(one: InputSpec, image: Tensor, first: str, height: int, width: int) -> None:
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


def _compute_padded_size(typed: TypedGraph, height: int, width: int) -> Sides:
    sizes = typed.sizes
    if type(height) is int and type(width) is int:
        padded = sizes.compute_padded_size(height, width)
        if padded is None:
            raise ValueError(explain_too_large(typed, height, width))
        return padded
    # Symbols: no branch may be taken on them, so the larger of two is left to torch.
    if sizes.square:
        height = width = _pick_larger(height, width)
    multiple, least = sizes.multiple, sizes.least
    return (
        sizes.height or round_up(height, multiple, least, _pick_larger),
        sizes.width or round_up(width, multiple, least, _pick_larger),
    )


def _pick_larger(one: int, other: int) -> int:
    """The larger of two symbols, without asking which it is unless their bounds do not tell."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return one if statically_known_true(one >= other) else cast(int, torch.sym_max(one, other))


def _check_image(one: InputSpec, x: Any) -> None:
    """Raise ValueError for what is not an image of this input, with the next step where it is clear."""
    if not isinstance(x, Tensor):
        convert = {"ndarray": "from_numpy", "list": "stack", "tuple": "stack"}.get(type(x).__name__)
        step = f"; convert it: torch.{convert}({one.name})" if convert else ""
        raise ValueError(f"{one.name} must be a tensor of shape {one.shape} (got {type(x).__name__}){step}")
    if x.dim() == one.dims and all(x.shape[axis] == size for axis, size in one.fixed) and 0 not in x.shape[-2:]:
        return
    step = _suggest_fix(one, tuple(x.shape))
    raise ValueError(f"{one.name} must be of shape {one.shape} (got {tuple(x.shape)}){step and f'; {step}'}")


def _suggest_fix(one: InputSpec, shape: tuple[int, ...]) -> str:
    """What to do with an image of this shape, or with the model, so that they fit; empty where it is not clear."""
    channels, frames = dict(one.fixed)[1], dict(one.fixed).get(2)
    if len(shape) == one.dims - 1 and all(shape[axis - 1] == size for axis, size in one.fixed):
        return f"add the batch: {one.name}[None]"
    if len(shape) == 4 and frames is not None:
        return f"put the frames together: torch.stack([…], 2) of {frames} images"
    if len(shape) == 5 and frames != shape[2] and shape[1] == channels:
        return f"for images of several frames, build the model with input: {{frames: {shape[2]}}}"
    if len(shape) != one.dims or shape[1] == channels:
        return ""
    if shape[-1] == channels:
        return f"put the channels second: {one.name}.movedim(-1, 1)"
    return f"choose {channels} channels, or build the model with input: {{channels: {shape[1]}}}"


def _describe_argument(image: object) -> str:
    if isinstance(image, Mapping):
        return f"a dict of {', '.join(map(repr, image)) or 'nothing'}"
    return "one tensor" if isinstance(image, Tensor) else type(image).__name__
