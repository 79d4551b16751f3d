"""What a model needs to know when it runs, worked out once when it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from inspect import signature
from math import lcm
from typing import Any, NamedTuple

from torch import nn

from composer.feature import Feature
from composer.graph import Node, Shared
from composer.modules.containers import get_module_path
from composer.parts import Custom, Encoder, Part, ProbedEncoder
from composer.typed import TypedGraph


class InputSpec(NamedTuple):
    """An image that the model takes: its layout's rank, the sizes of its fixed axes, its stride as a ratio."""

    name: str
    shape: str
    dims: int
    fixed: tuple[tuple[int, int], ...]
    numerator: int
    denominator: int


class NodeCall(NamedTuple):
    """A node as the model runs it: where its module hangs, what it takes, and how it wants to be called.

    `frames` is given for an encoder of stills that runs on so many frames, and `batch` then says where in each of its
    features the batch is. `extras` are the keyword arguments that an encoder takes beside the image; None is any.
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
    """A feature that leaves the model: where from, where its batch is, what its other axes are, and its grid in whole
    numbers, unless it is a vector, which has none: cells = (side * times - less) // by. `whole` says that all of it
    leaves, as it is.
    """

    node: str
    feature: Feature
    rescale: bool
    interpolate: bool
    whole: bool
    batch: int
    axes: tuple[str, ...]
    grid: tuple[int, int, int] | None

    def shape(self, padded: tuple[int, int]) -> tuple[int, ...] | None:
        """What was promised for a padded image, but for the batch; None where the image's size is a symbol."""
        if any(type(side) is not int for side in padded):
            return None
        sizes = {"c": self.feature.channels, "t": self.feature.frames}
        if self.grid is not None:
            # In whole numbers, because this runs with every image, and fractions take their time.
            times, less, by = self.grid
            sizes["h"], sizes["w"] = ((side * times - less) // by for side in padded)
            among = 1 if "t" in self.axes else self.feature.frames
            sizes["n"] = self.feature.prefix + among * sizes["h"] * sizes["w"]
        return tuple(sizes[axis] for axis in self.axes)


def build_input_spec(name: str, feature: Feature) -> InputSpec:
    """The plan of an input, from what its image is as a feature."""
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
    """The plan of a node, for the module that runs there: its own, or the one that it shares."""
    owner = node.part.node if isinstance(node.part, Shared) else node.name
    part = next(other.part for other in typed.graph.nodes if other.name == owner)
    per_frame = node.name in typed.per_frame
    return NodeCall(
        name=node.name,
        path=get_module_path(owner),
        inputs=node.positional,
        named=node.named,
        takes_image=isinstance(part, Encoder),
        takes_size=not isinstance(part, Encoder) and _has_image_size(modules[owner].forward),
        foreign=isinstance(part, Custom),
        frames=typed.features[node.sources[0]][0].frames if per_frame else None,
        batch=tuple(f.axes.split().index("b") for f in typed.features[node.name]) if per_frame else (),
        extras=frozenset() if per_frame else _get_extra_names(modules[owner], part),
    )


def _get_extra_names(module: nn.Module, part: Part | Shared | None) -> frozenset[str] | None:
    """The keyword arguments that an encoder takes beside its images: those of a module of one's own, or those that an
    adapter's module says in `extras`.
    """
    if isinstance(part, Custom):
        return _list_keyword_parameters(module.forward)
    told = getattr(module, "extras", None) if isinstance(part, ProbedEncoder) else None
    return told if isinstance(told, frozenset) else frozenset()


def _list_keyword_parameters(forward: Callable[..., Any]) -> frozenset[str] | None:
    """The keyword parameters of an encoder of one's own beside its first, which is the image; None is any."""
    try:
        _, *parameters = signature(forward).parameters.values()
    except ValueError:  # what is compiled may have no signature
        return frozenset()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return frozenset(p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD))


def _has_image_size(forward: Callable[..., Any]) -> bool:
    try:
        return "image_size" in signature(forward).parameters
    except ValueError:  # what is compiled may have no signature
        return False


def build_output_node(typed: TypedGraph, name: str, feature: Feature) -> OutputNode:
    """The plan of a feature of an output, or of an auxiliary one."""
    stride = feature.stride
    axes = feature.axes.split()
    return OutputNode(
        node=name,
        feature=feature,
        rescale=typed.is_rescaled(feature),
        interpolate=stride != 1 or feature.offset != 0,
        whole=stride is None or name in typed.embeddings,
        batch=axes.index("b"),
        axes=tuple(axis for axis in axes if axis != "b"),
        grid=None if stride is None else _compute_grid_terms(stride, feature),
    )


def _compute_grid_terms(stride: Fraction, feature: Feature) -> tuple[int, int, int]:
    """H / stride - offset / stride as (H * times - less) / by, rounded down; rounding up is to take less."""
    offset = feature.offset / stride
    by = lcm(stride.numerator, offset.denominator)
    less = -(by - 1) if feature.rounding == "ceil" else int(offset * by)
    return int(by / stride), less, by
