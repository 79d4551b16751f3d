"""Run what surrounds the nodes of a model: validate and pad its images, then resize and crop its outputs."""

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
from composer.parts import Custom, Encoder, ProbedEncoder
from composer.sizes import round_up

Inputs = tuple[tuple[str, Feature], ...]
"""The inputs of a model by name, each with the feature that an image must have."""

Sides = tuple[int, int]
"""Height and width, or top and left, in reference pixels: integers, or symbols while a model is exported."""


class NodeCall(NamedTuple):
    """The call of a node: the path of its module, its inputs, and what its forward method takes.

    A single-image encoder that is applied to each frame has their number in `frames`, and the batch axis of each of
    its features in `batch`. `extras` are the keyword arguments that an encoder takes beside the image; None is any.
    """

    name: str
    path: str
    inputs: tuple[str, ...]
    named: tuple[tuple[str, str], ...]
    takes_image: bool
    takes_size: bool
    foreign: bool
    frames: int | None
    batch: tuple[int, ...]
    extras: frozenset[str] | None


def build_node_call(node: Node, typed: TypedGraph, modules: Mapping[str, nn.Module]) -> NodeCall:
    """Return how to call a node with its own module or the one that it shares."""
    owner = node.part.node if isinstance(node.part, Shared) else node.name
    part = next(other.part for other in typed.graph.nodes if other.name == owner)
    per_frame = node.name in typed.per_frame
    parameters = _list_parameters(modules[owner].forward)
    extras: frozenset[str] | None = frozenset()
    if isinstance(part, Custom):
        keywords = [p for p in parameters[1:] if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
        extras = None if takes_any else frozenset(p.name for p in keywords)
    elif isinstance(part, ProbedEncoder):
        extras = getattr(modules[owner], "extras", extras)
    return NodeCall(
        name=node.name,
        path=".".join(get_module_path(owner)),
        inputs=node.positional,
        named=node.named,
        takes_image=isinstance(part, Encoder),
        takes_size=not isinstance(part, Encoder) and any(p.name == "image_size" for p in parameters),
        foreign=isinstance(part, Custom),
        frames=typed.features[node.sources[0]][0].frames if per_frame else None,
        batch=tuple(f.axes.split().index("b") for f in typed.features[node.name]) if per_frame else (),
        extras=frozenset() if per_frame else extras,
    )


def _list_parameters(forward: Callable[..., Any]) -> list[Parameter]:
    try:
        return list(signature(forward).parameters.values())
    except ValueError:  # compiled functions may have no signature
        return []


def validate_inputs(inputs: Inputs, image: Tensor | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the images by input name. Raises ValueError, with the next step, for images that do not match."""
    names = [name for name, _ in inputs]
    images = image if isinstance(image, Mapping) or len(names) > 1 else {names[0]: image}
    if not isinstance(images, Mapping) or set(images) != set(names):
        wanted = "one tensor, or a dict with one named" if len(names) == 1 else "a dict of images named"
        got = "one tensor" if isinstance(image, Tensor) else type(image).__name__
        if isinstance(image, Mapping):
            got = f"a dict of {', '.join(map(repr, image)) or 'nothing'}"
        raise ValueError(f"the model takes {wanted} {', '.join(names)} (got {got})")
    for name, feature in inputs:
        _check_image(name, feature, images[name])
    count = images[names[0]].shape[0]
    for name in names[1:]:
        # torch would broadcast a single image.
        if images[name].shape[0] != count:
            raise ValueError(f"{name} must have as many images as {names[0]} (got {images[name].shape[0]} and {count})")
    return images


def _check_image(name: str, feature: Feature, x: Any) -> None:
    """Raise ValueError for a value that is not an image of this feature, with the next step if it is clear."""
    axes = feature.axes.split()
    sizes: dict[str, int] = {"c": feature.channels, **({"t": feature.frames} if "t" in axes else {})}
    wanted = f"({', '.join(str(sizes.get(axis, axis)) for axis in axes)})"
    if not isinstance(x, Tensor):
        convert = {"ndarray": "from_numpy", "list": "stack", "tuple": "stack"}.get(type(x).__name__)
        step = f"; convert it: torch.{convert}({name})" if convert else ""
        raise ValueError(f"{name} must be a tensor of shape {wanted} (got {type(x).__name__}){step}")
    shape = tuple(x.shape)
    if len(shape) != len(axes) or 0 in shape[-2:] or any(shape[axes.index(a)] != size for a, size in sizes.items()):
        step = _suggest_fix(name, axes, sizes, shape)
        raise ValueError(f"{name} must be of shape {wanted} (got {shape}){step and f'; {step}'}")


def _suggest_fix(name: str, axes: Sequence[str], sizes: Mapping[str, int], shape: tuple[int, ...]) -> str:
    """Return how to change an image of this shape, or the model, so that they match; empty if it is not clear."""
    channels, frames = sizes["c"], sizes.get("t")
    if len(shape) == len(axes) - 1 and all(shape[axes.index(axis) - 1] == size for axis, size in sizes.items()):
        return f"add the batch: {name}[None]"
    if len(shape) == 4 and frames is not None:
        return f"put the frames together: torch.stack([…], 2) of {frames} images"
    if len(shape) == 5 and frames != shape[2] and shape[1] == channels:
        return f"for images of several frames, build the model with input: {{frames: {shape[2]}}}"
    if len(shape) != len(axes) or shape[1] == channels:
        return ""
    if shape[-1] == channels:
        return f"put the channels second: {name}.movedim(-1, 1)"
    return f"choose {channels} channels, or build the model with input: {{channels: {shape[1]}}}"


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


class PadSpec(NamedTuple):
    """An image of `size` at the position `before` in a padded image of `padded`.

    `centered` is set where half of the padding is before the image, by the pixel.
    """

    size: Sides
    padded: Sides
    before: Sides
    centered: bool


def compute_padding(inputs: Inputs, images: Mapping[str, Tensor], typed: TypedGraph, unit: int) -> PadSpec:
    """Return the padding of images that cover the same area. Raises ValueError if they do not, or are too large."""
    first, one = inputs[0][0], _get_ratio(inputs[0][1])
    height, width = (side * one[0] // one[1] for side in images[first].shape[-2:])
    for name, feature in inputs:
        (numerator, denominator), sides = _get_ratio(feature), images[name].shape[-2:]
        got = f"(got {sides[0]} × {sides[1]})"
        if numerator > 1 and denominator > 1 and any(side % denominator for side in sides):
            raise ValueError(
                f"{name} has stride {numerator}/{denominator}, so its sides must be multiples of {denominator} {got}"
            )
        if [side * numerator for side in sides] != [height * denominator, width * denominator]:
            wanted = f"{height * denominator / numerator:g} × {width * denominator / numerator:g}"
            raise ValueError(f"{name} must have {wanted} pixels, to cover what {first} covers {got}")
    return compute_padding_for_size((height, width), typed, unit)


def compute_padding_for_size(size: Sides, typed: TypedGraph, unit: int) -> PadSpec:
    """Return the padding of an image of this size in reference pixels. `unit` is that of the typed graph.

    Raises ValueError if the image is larger than the graph accepts.
    """
    padded = _compute_padded_size(typed, *size)
    before = typed.graph.padding.before
    top, left = (before(target - side, unit) for target, side in zip(padded, size, strict=True))
    return PadSpec(size, padded, (top, left), centered=typed.graph.padding.side == "both" and unit == 1)


def pad_image(image: Tensor, feature: Feature, pad: PadSpec, mode: str) -> Tensor:
    """Pad an image, in its own pixels."""
    numerator, denominator = _get_ratio(feature)
    for axis, start, target in zip((-2, -1), pad.before, pad.padded, strict=True):
        cells = [pixels * denominator // numerator for pixels in (start, target)]
        image = pad_axis(image, axis, cells[0], cells[1], mode)
    return image


def pad_axis(x: Tensor, axis: int, before: int, length: int, mode: str) -> Tensor:
    """Extend `x` along `axis` to `length`, with `before` entries in front.

    `reflect` mirrors about the edge without repeating it, as far as the image goes, and repeats the last entry
    beyond that; `replicate` repeats the edge; `zeros` fills with 0.
    """
    size = x.shape[axis]
    if type(length) is not int or type(size) is not int:
        return _select_entries(x, axis, torch.arange(length, device=x.device) - before, mode)
    if length == size:
        return x
    # Only the padding is gathered: copying the image in one piece is several times as fast.
    front = _select_entries(x, axis, torch.arange(-before, 0, device=x.device), mode)
    back = _select_entries(x, axis, torch.arange(size, length - before, device=x.device), mode)
    return torch.cat([front, x, back], dim=axis)


def _select_entries(x: Tensor, axis: int, index: Tensor, mode: str) -> Tensor:
    """Return the entries of `x` along `axis` at positions that may be outside of it."""
    size = x.shape[axis]
    inside = index.clamp(0, size - 1)
    if mode == "reflect":
        beyond = index - inside
        # One past the edge mirrors to one inside it; clamped where the image is too short to mirror so far.
        inside = (inside - beyond).clamp(0, size - 1)
    entries = x.index_select(axis, inside)
    if mode != "zeros":
        return entries
    outside = (index < 0) | (index >= size)
    shape = [1] * x.dim()
    shape[axis] = -1
    return entries.masked_fill(outside.view(shape), 0)


def _get_ratio(feature: Feature) -> tuple[int, int]:
    """Return the stride of an image as two integers, because a compiler would trace arithmetic with fractions."""
    assert feature.stride is not None
    return feature.stride.numerator, feature.stride.denominator


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


class OutputSpec(NamedTuple):
    """A feature that the model returns: as it is (`whole`), resized to the image (`resize`), or cropped to its cells.

    A map at the image's size is not interpolated.
    """

    node: str
    feature: Feature
    whole: bool
    resize: bool
    interpolate: bool


def build_output_spec(typed: TypedGraph, name: str, feature: Feature) -> OutputSpec:
    """Return how a feature of an output, or of an auxiliary output, is returned."""
    whole = feature.stride is None or name in typed.embeddings
    interpolate = feature.stride != 1 or feature.offset != 0
    return OutputSpec(name, feature, whole, typed.is_rescaled(feature), interpolate)


def prepare_outputs(
    specs: tuple[OutputSpec, ...], tensors: Sequence[Tensor], pad: PadSpec, kept: Sides | None
) -> tuple[Tensor, ...]:
    """Return the tensors of one node as the model returns them: resized, and cropped to the image or to `kept`.

    Raises RuntimeError for tensors of other shapes than the contract promised.
    """
    if len(tensors) != len(specs):
        promised = format_count(len(specs), "feature")
        raise RuntimeError(
            f"{specs[0].node} promised {promised} and gave {len(tensors)}: its contract and its module disagree"
        )
    return tuple(_prepare_output(spec, x, pad, kept) for spec, x in zip(specs, tensors, strict=True))


def _prepare_output(spec: OutputSpec, x: Tensor, pad: PadSpec, kept: Sides | None) -> Tensor:
    # A compiler would trace the fractions, and a symbolic size has none.
    if not torch.compiler.is_compiling() and all(type(side) is int for side in pad.padded):
        _check_shape(spec, x, pad.padded)
    if spec.whole:
        return x
    if spec.resize:
        if spec.interpolate:
            x = F.interpolate(x, size=pad.padded, mode="bilinear")
        return crop(x, *((*pad.before, *pad.size) if kept is None else compute_center_crop_box(pad, kept)))
    (top, height), (left, width) = (
        compute_kept_cells(spec.feature, pixels, start, padded)
        for pixels, start, padded in zip(pad.size, pad.before, pad.padded, strict=True)
    )
    return crop(x, top, left, height, width)


def _check_shape(spec: OutputSpec, x: Tensor, padded: Sides) -> None:
    promised = _compute_shape(spec.feature, *padded)
    if x.dim() != len(promised) or any(side not in ("b", given) for side, given in zip(promised, x.shape, strict=True)):
        raise RuntimeError(
            f"{spec.node} promised a feature of shape {promised} and gave {tuple(x.shape)}: "
            f"its contract and its module disagree"
        )


@lru_cache
def _compute_shape(feature: Feature, height: int, width: int) -> tuple[int | str, ...]:
    # Cached, because this runs with every image, and fractions are slow.
    return feature.shape("b", height, width)


def compute_center_crop_box(pad: PadSpec, kept: Sides) -> tuple[int, int, int, int]:
    """Return top, left, height and width of the center crop in the padded image. Raises ValueError if too large."""
    height, width = pad.size
    if height < kept[0] or width < kept[1]:
        raise ValueError(explain_too_small(kept, height, width))
    # The center of the padded image is that of a centered one to within half a pixel: what cropping the output gives.
    areas = zip(pad.size, pad.padded, pad.before, kept, strict=True)
    top, left = (((padded if pad.centered else side + 2 * before) - keep) // 2 for side, padded, before, keep in areas)
    return top, left, *kept


def crop(x_BCHW: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """Crop a map to `height` rows from `top` and `width` columns from `left`, or as many as it has."""
    for axis, start, length in ((-2, top, height), (-1, left, width)):
        if type(start) is int and type(length) is int:
            x_BCHW = x_BCHW.narrow(axis, start, min(length, x_BCHW.shape[axis] - start))
        else:
            # A slice would check its bounds, which fails for a symbol.
            x_BCHW = x_BCHW.index_select(axis, torch.arange(length, device=x_BCHW.device) + start)
    return x_BCHW
