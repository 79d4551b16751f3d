"""A graph with everything that inference found out."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import ceil, lcm

from attrs import frozen

from composer.graph import Graph, Node
from composer.layouts import MAP, Feature, Features
from composer.parts import EncoderInfo, ProbedEncoder
from composer.sizes import SizeConstraint

Shape = tuple[str | int, ...]
"""The shape of a tensor, with the batch as "b"."""


@frozen(kw_only=True)
class TypedGraph:
    """The result of `infer`: a graph, and what flows through it.

    `features` holds what leaves each input and each node, `sizes` the image sizes the graph takes without padding,
    `facts` what was asked of the world, by node, and `order` the nodes such that each comes after what it takes.
    `per_frame` names the single-image encoders that are applied to each frame, and `embeddings` the nodes whose
    features are returned as they are.
    """

    graph: Graph
    features: Mapping[str, Features]
    sizes: SizeConstraint
    node_sizes: Mapping[str, SizeConstraint]
    facts: Mapping[str, EncoderInfo]
    order: tuple[Node, ...]
    per_frame: frozenset[str] = frozenset()
    embeddings: frozenset[str] = frozenset()

    @property
    def ends(self) -> tuple[str, ...]:
        """The nodes whose features leave the model: the outputs, then the auxiliary ones."""
        return (*self.graph.outputs, *(node for _, node in self.graph.auxiliary))

    @property
    def unit(self) -> int:
        """Padding before the image comes in whole units of so many reference pixels, per side.

        Only so do the pixels of inputs at different resolutions, and the cells of output that is not rescaled, stay
        on the image's own grid.
        """
        strides = [image.stride for _, image in self.graph.inputs]
        if not self.graph.rescale:
            strides += [feature.stride for end in self.ends for feature in self.features[end] if feature.stride]
        return lcm(*(stride.numerator for stride in strides))

    def is_rescaled(self, feature: Feature) -> bool:
        """Return True for an output that is resized to the image."""
        return self.graph.rescale and feature.axes == MAP

    def shape(self, output: str, height: int, width: int) -> Shape | tuple[Shape, ...]:
        """The exact shape of an output for images of `height` x `width` reference pixels, the batch as "b".

        For an embedding it is a tuple of shapes, one for each of its features. `output` is a node of `outputs` or
        `auxiliary`. Raises ValueError for another name, and for an image that is larger than the graph takes, or
        smaller than the crop of its output.
        """
        if output not in self.ends:
            raise ValueError(f"{output!r} is not an output of this graph; its outputs are {', '.join(self.ends)}")
        if any(type(side) is not int or side < 1 for side in (height, width)):
            raise ValueError(f"an image has whole numbers of pixels, at least 1 (got {height!r} × {width!r})")
        padded = self.sizes.compute_padded_size(height, width)
        if padded is None:
            raise ValueError(explain_too_large(self, height, width))
        if output in self.embeddings:
            return tuple(_compute_full_shape(feature, padded) for feature in self.features[output])
        (feature,) = self.features[output]
        return self._compute_output_shape(feature, (height, width), padded)

    def _compute_output_shape(self, feature: Feature, size: tuple[int, int], padded: tuple[int, int]) -> Shape:
        if feature.stride is None:
            return ("b", feature.channels)
        if self.is_rescaled(feature):
            return ("b", feature.channels, *self._compute_cropped_size(*size))
        sides = (self._count_kept_cells(feature, *side) for side in zip(size, padded, strict=True))
        return ("b", feature.channels, *sides)

    def _compute_cropped_size(self, height: int, width: int) -> tuple[int, int]:
        crop = self.graph.crop
        if crop is not None and (height < crop[0] or width < crop[1]):
            raise ValueError(explain_too_small(crop, height, width))
        return crop or (height, width)

    def _count_kept_cells(self, feature: Feature, pixels: int, padded: int) -> int:
        start, count = compute_kept_cells(
            feature, pixels, self.graph.padding.before(padded - pixels, self.unit), padded
        )
        return min(count, feature.cells(padded) - start)


def _compute_full_shape(feature: Feature, padded: tuple[int, int]) -> Shape:
    shape: list[str | int] = [*feature.shape(1, *padded)]
    shape[feature.axes.split().index("b")] = "b"
    return tuple(shape)


def compute_kept_cells(feature: Feature, pixels: int, before: int, padded: int) -> tuple[int, int]:
    """The cells of a padded side that belong to the image: where they begin, and how many.

    `before` is the padding before the image, in whole strides. A map that rounds down may have one cell less. With an
    offset they are those that an image without padding would have, and at least one.
    """
    stride: Fraction = feature.stride or Fraction(1)
    start = before * stride.denominator // stride.numerator
    # Rounded up without a negative number, of which ONNX rounds the quotient towards zero.
    cells = (pixels * stride.denominator + stride.numerator - 1) // stride.numerator
    if feature.offset:
        lost = ceil(feature.offset / stride)
        cells = max(cells - lost, 1)
        if type(padded) is int:
            start = min(start, max(int(padded // stride) - lost - 1, 0))
    return start, cells


def explain_too_large(typed: TypedGraph, height: int, width: int) -> str:
    """Return what to say of an image that cannot be padded to any size that the graph takes."""
    fixed = [(node.part, typed.facts[node.name]) for node in typed.order if node.name in typed.facts]
    rebuilt = all(image.size is None for _, image in typed.graph.inputs) and any(
        facts.sizes.height
        and isinstance(part, ProbedEncoder)
        and part.copy_with_image_size(height, width, facts) is not None
        for part, facts in fixed
    )
    size = f"input: {{size: [{height}, {width}]}}"
    return (
        f"an image of {height} × {width} pixels is too large: the graph takes {typed.sizes}. "
        f"Crop or resize the image{f', or build the model for this size, if timm supports it: {size}' * rebuilt}."
    )


def explain_too_small(crop: tuple[int, int], height: int, width: int) -> str:
    """Return the error for an image that is smaller than the crop of its output."""
    return (
        f"an image of {height} × {width} pixels is smaller than the crop of its output, {crop[0]} × {crop[1]}. "
        f"Resize the image or leave crop out."
    )
