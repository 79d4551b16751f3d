"""Run the nodes of a model: validate and pad inputs, then rescale and crop outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from inspect import Parameter, signature
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from composer.graph import Node, Shared, get_module_path
from composer.inference import TypedGraph, compute_kept_cells, explain_too_large, explain_too_small
from composer.layouts import Feature, format_count
from composer.modules.base import crop, pad_axis
from composer.parts import Custom, Encoder, Part, ProbedEncoder
from composer.sizes import round_up


class InputSpec(NamedTuple):
    """An input of the model: the rank of its layout, the sizes of its fixed axes, its stride as a ratio."""

    name: str
    shape: str
    dims: int
    fixed: tuple[tuple[int, int], ...]
    numerator: int
    denominator: int


class NodeCall(NamedTuple):
    """The call of a node: the path of its module, its inputs, and what its forward method takes.

    A single-image encoder that is applied to each frame has their number in `frames`, and the batch axis of each of
    its features in `batch`. `extras` are the keyword arguments that an encoder takes beside the image; None is any.
    """

    name: str
    path: tuple[str, ...]
    inputs: tuple[str, ...]
    named: tuple[tuple[str, str], ...]
    takes_image: bool
    takes_size: bool
    foreign: bool
    frames: int | None
    batch: tuple[int, ...]
    extras: frozenset[str] | None


class OutputNode(NamedTuple):
    """A feature that the model returns, and what is done to it first. With `whole` it is returned as it is."""

    node: str
    feature: Feature
    rescale: bool
    interpolate: bool
    whole: bool


def build_input_spec(name: str, feature: Feature) -> InputSpec:
    """Return the specification of an input from its feature."""
    assert feature.stride is not None
    axes = feature.axes.split()
    sizes = {"c": feature.channels, "t": feature.frames}
    return InputSpec(
        name=name,
        shape=f"({', '.join(str(sizes.get(axis, axis)) for axis in axes)})",
        dims=len(axes),
        fixed=tuple((axes.index(axis), size) for axis, size in sizes.items() if axis in axes),
        numerator=feature.stride.numerator,
        denominator=feature.stride.denominator,
    )


def build_node_call(node: Node, typed: TypedGraph, modules: Mapping[str, nn.Module]) -> NodeCall:
    """Return how to call a node with its own module or the one that it shares."""
    owner = node.part.node if isinstance(node.part, Shared) else node.name
    part = next(other.part for other in typed.graph.nodes if other.name == owner)
    per_frame = node.name in typed.per_frame
    return NodeCall(
        name=node.name,
        path=get_module_path(owner),
        inputs=node.positional,
        named=node.named,
        takes_image=isinstance(part, Encoder),
        takes_size=not isinstance(part, Encoder) and _has_image_size(modules[owner]),
        foreign=isinstance(part, Custom),
        frames=typed.features[node.sources[0]][0].frames if per_frame else None,
        batch=tuple(f.axes.split().index("b") for f in typed.features[node.name]) if per_frame else (),
        extras=frozenset() if per_frame else _get_extra_names(modules[owner], part),
    )


def _get_extra_names(module: nn.Module, part: Part | Shared | None) -> frozenset[str] | None:
    """Return the keyword arguments that an encoder takes beside its images.

    A `Custom` module has them in its signature, a module of an adapter in its attribute `extras`.
    """
    if isinstance(part, Custom):
        parameters = _list_parameters(module.forward)[1:]
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return None
        return frozenset(p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD))
    extras = getattr(module, "extras", None) if isinstance(part, ProbedEncoder) else None
    return extras if isinstance(extras, frozenset) else frozenset()


def _has_image_size(module: nn.Module) -> bool:
    return any(parameter.name == "image_size" for parameter in _list_parameters(module.forward))


def _list_parameters(forward: Callable[..., Any]) -> list[Parameter]:
    try:
        return list(signature(forward).parameters.values())
    except ValueError:  # compiled functions may have no signature
        return []


def build_output_node(typed: TypedGraph, name: str, feature: Feature) -> OutputNode:
    """Return how a feature of an output, or of an auxiliary output, is returned."""
    return OutputNode(
        node=name,
        feature=feature,
        rescale=typed.is_rescaled(feature),
        interpolate=feature.stride != 1 or feature.offset != 0,
        whole=feature.stride is None or name in typed.embeddings,
    )


Sides = tuple[int, int]
"""Height and width, or top and left, in reference pixels: integers, or symbols while a model is exported."""


class PadSpec(NamedTuple):
    """An image of `size` at the position `before` in a padded image of `padded`."""

    size: Sides
    padded: Sides
    before: Sides


def validate_inputs(inputs: tuple[InputSpec, ...], image: Tensor | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the images by input name. Raises ValueError, with the next step, for images that do not match."""
    names = [one.name for one in inputs]
    images = image if isinstance(image, Mapping) or len(names) > 1 else {names[0]: image}
    if not isinstance(images, Mapping) or set(images) != set(names):
        wanted = "one tensor, or a dict with one named" if len(names) == 1 else "a dict of images named"
        raise ValueError(f"the model takes {wanted} {', '.join(names)} (got {_describe_argument(image)})")
    for one in inputs:
        _check_image(one, images[one.name])
    for one in inputs[1:]:
        # torch would broadcast a single image.
        counts = images[one.name].shape[0], images[names[0]].shape[0]
        if counts[0] != counts[1]:
            raise ValueError(f"{one.name} must have as many images as {names[0]} (got {counts[0]} and {counts[1]})")
    return images


def explain_weight_mismatch(images: Mapping[str, Tensor], weights: Iterable[Tensor]) -> str | None:
    """Return an error for an image of another dtype or device than the weights; None if all match."""
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
    """Return True if autocast is on and converts such a tensor. It does not convert float64 and integers."""
    device = x.device.type
    is_on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return is_on and x.dtype in (torch.float32, torch.get_autocast_dtype(device))


def compute_padding(
    inputs: tuple[InputSpec, ...], images: Mapping[str, Tensor], typed: TypedGraph, unit: int
) -> PadSpec:
    """Return the padding of images that cover the same area. Raises ValueError if they do not, or are too large."""
    first = inputs[0]
    height, width = (images[first.name].shape[axis] * first.numerator // first.denominator for axis in (-2, -1))
    for one in inputs:
        _check_cover(one, images[one.name], first.name, height, width)
    return compute_padding_for_size((height, width), typed, unit)


def compute_padding_for_size(size: Sides, typed: TypedGraph, unit: int) -> PadSpec:
    """Return the padding of an image of this size in reference pixels. `unit` is that of the typed graph.

    Raises ValueError if the image is larger than the graph accepts.
    """
    padded = _compute_padded_size(typed, *size)
    before = typed.graph.padding.before
    top, left = (before(target - side, unit) for target, side in zip(padded, size, strict=True))
    return PadSpec(size, padded, (top, left))


def pad_input(one: InputSpec, image: Tensor, frame: PadSpec, mode: str) -> Tensor:
    """Pad an image, in its own pixels."""
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
    # Symbols allow no branches, so torch picks the larger of two.
    if sizes.square:
        height = width = _pick_larger(height, width)
    multiple, least = sizes.multiple, sizes.least
    return (
        sizes.height or round_up(height, multiple, least, _pick_larger),
        sizes.width or round_up(width, multiple, least, _pick_larger),
    )


def _pick_larger(one: int, other: int) -> int:
    """Return the larger of two symbols, without a guard if their bounds decide it."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return one if statically_known_true(one >= other) else cast(int, torch.sym_max(one, other))


def _check_image(one: InputSpec, x: Any) -> None:
    """Raise ValueError for a value that is not an image of this input, with the next step if it is clear."""
    if not isinstance(x, Tensor):
        convert = {"ndarray": "from_numpy", "list": "stack", "tuple": "stack"}.get(type(x).__name__)
        step = f"; convert it: torch.{convert}({one.name})" if convert else ""
        raise ValueError(f"{one.name} must be a tensor of shape {one.shape} (got {type(x).__name__}){step}")
    if x.dim() == one.dims and all(x.shape[axis] == size for axis, size in one.fixed) and 0 not in x.shape[-2:]:
        return
    step = _suggest_fix(one, tuple(x.shape))
    raise ValueError(f"{one.name} must be of shape {one.shape} (got {tuple(x.shape)}){step and f'; {step}'}")


def _suggest_fix(one: InputSpec, shape: tuple[int, ...]) -> str:
    """Return how to change an image of this shape, or the model, so that they match; empty if it is not clear."""
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


def prepare_outputs(
    ends: tuple[OutputNode, ...], tensors: Sequence[Tensor], frame: PadSpec, kept: Sides | None
) -> tuple[Tensor, ...]:
    """Return the tensors of one node as the model returns them: rescaled, and cropped to the image or to `kept`.

    Raises RuntimeError for tensors of other shapes than the contract promised.
    """
    if len(tensors) != len(ends):
        raise RuntimeError(
            f"{ends[0].node} promised {format_count(len(ends), 'feature')} and gave {len(tensors)}: "
            f"its contract and its module disagree"
        )
    return tuple(_prepare_output(end, x, frame, kept) for end, x in zip(ends, tensors, strict=True))


def compute_center_crop_box(frame: PadSpec, kept: Sides) -> tuple[int, int, int, int]:
    """Return top, left, height and width of the center crop in the padded image. Raises ValueError if too large."""
    height, width = frame.size
    if height < kept[0] or width < kept[1]:
        raise ValueError(explain_too_small(kept, height, width))
    top, left = map(_compute_center_start, frame.size, frame.padded, frame.before, kept)
    return top, left, *kept


def _prepare_output(end: OutputNode, x: Tensor, frame: PadSpec, kept: Sides | None) -> Tensor:
    _check_output_shape(end, x, frame)
    if end.whole:
        return x
    if end.rescale:
        if end.interpolate:
            x = F.interpolate(x, size=frame.padded, mode="bilinear")
        return crop(x, *((*frame.before, *frame.size) if kept is None else compute_center_crop_box(frame, kept)))
    rows, columns = (
        compute_kept_cells(end.feature, pixels, start, padded)
        for pixels, start, padded in zip(frame.size, frame.before, frame.padded, strict=True)
    )
    return crop(x, rows[0], columns[0], rows[1], columns[1])


def _check_output_shape(end: OutputNode, x: Tensor, frame: PadSpec) -> None:
    # A compiler would trace the fractions, and a symbolic size has none.
    if torch.compiler.is_compiling() or any(type(side) is not int for side in frame.padded):
        return
    at = end.feature.axes.split().index("b")
    promised = _compute_shape(end.feature, *frame.padded)
    if (*x.shape[:at], *x.shape[at + 1 :]) != (*promised[:at], *promised[at + 1 :]):
        shape = (*promised[:at], "b", *promised[at + 1 :])
        raise RuntimeError(
            f"{end.node} promised a feature of shape {shape} and gave {tuple(x.shape)}: "
            f"its contract and its module disagree"
        )


@lru_cache
def _compute_shape(feature: Feature, height: int, width: int) -> tuple[int, ...]:
    # Cached, because this runs with every image, and fractions are slow.
    return feature.shape(1, height, width)


def _compute_center_start(side: int, padded: int, before: int, kept: int) -> int:
    """Return the start of the center `kept` pixels of a side that begins at `before` in the padded side.

    With even padding the center of the padded side is the same to within half a pixel, and is taken: it is what
    cropping the padded output gives.
    """
    around = padded - side
    return (side + (around if before == around // 2 else 2 * before) - kept) // 2
