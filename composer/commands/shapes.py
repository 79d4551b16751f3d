"""The shapes that leave a graph: as symbols, and for an image or two. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import TYPE_CHECKING, Any

from attrs import evolve

from composer.feature import Feature, Rounding
from composer.typed import Shape, TypedGraph

if TYPE_CHECKING:
    from rich.console import RenderableType

EXAMPLE_SIDE = 224
"""A side of the example image, rounded up to what the graph takes."""

UNALIGNED_SIZE = (225, 300)
"""An example that most graphs have to pad."""


def build_outputs_table(typed: TypedGraph) -> RenderableType:
    """The shape of every output, for an image or two."""
    from rich import box
    from rich.table import Table

    sizes = list(iter_example_sizes(typed))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("output")
    for size in sizes:
        padded = typed.sizes.compute_padded_size(*size)
        assert padded is not None
        inside = f"\npadded to {padded[0]} × {padded[1]}" if padded != size else ""
        table.add_column(f"image of {size[0]} × {size[1]}{inside}")
    labels = {node: f" ({label}, auxiliary)" for label, node in typed.graph.auxiliary}
    for end in dict.fromkeys(typed.ends):
        note = labels.get(end, "") if end not in typed.graph.outputs else ""
        shapes = (to_shapes(typed, end, typed.shape(end, *size)) for size in sizes)
        table.add_row(f"{end}{note}", *("\n".join(map(format_shape, each)) for each in shapes))
    return table


def iter_example_sizes(typed: TypedGraph) -> Iterator[tuple[int, int]]:
    """Sizes to show the outputs' shapes for: one that the graph takes, and where it may be, one that is padded."""
    whole = typed.sizes.compute_padded_size(EXAMPLE_SIDE, EXAMPLE_SIDE) or typed.sizes.compute_padded_size(1, 1)
    assert whole is not None
    yield whole
    if typed.sizes.compute_padded_size(*UNALIGNED_SIZE) is not None:
        yield UNALIGNED_SIZE


def to_shapes(typed: TypedGraph, end: str, shape: Any) -> tuple[Shape, ...]:
    """The shapes of an embedding; a tuple of one, for another output."""
    return shape if end in typed.embeddings else (shape,)


def format_shape(shape: Shape) -> str:
    """`(b, 10, 288, 512)`."""
    return f"({', '.join(map(str, shape))})"


def compute_symbolic_shape(typed: TypedGraph, end: str) -> Shape | tuple[Shape, ...]:
    """The shape of an output for an image of `H` by `W` pixels: `("b", 10, "H", "W")`, or `"ceil(H/4)"` for cells.

    For an embedding a tuple of shapes, `(("b", 64, "H/4", "W/4"), …)`, where `H` and `W` count the padded image.
    """
    if end in typed.embeddings:
        return tuple(map(_compute_embedding_shape, typed.features[end]))
    return _compute_output_shape(typed, *typed.features[end])


def _compute_embedding_shape(feature: Feature) -> Shape:
    symbols: dict[str, str | int] = {"b": "b", "c": feature.channels, "t": feature.frames}
    if feature.stride is not None:
        symbols["h"], symbols["w"] = (_format_cell_count(feature, side, feature.rounding) for side in "HW")
        frames = [str(feature.frames)] if feature.frames > 1 and "t" not in feature.axes else []
        grid = "*".join([*frames, str(symbols["h"]), str(symbols["w"])])
        symbols["n"] = f"{feature.prefix}+{grid}" if feature.prefix else grid
    return tuple(symbols[axis] for axis in feature.axes.split())


def _compute_output_shape(typed: TypedGraph, feature: Feature) -> Shape:
    if feature.stride is None:
        return ("b", feature.channels)
    if typed.is_rescaled(feature) or (feature.stride == 1 and not feature.offset):
        return ("b", feature.channels, "H", "W")
    without = evolve(feature, offset=0)
    lost = -ceil(feature.offset / feature.stride)
    return (
        "b",
        feature.channels,
        *(_format_cell_count(without, side, "ceil") + (f"{lost:+}" if lost else "") for side in "HW"),
    )


def _format_cell_count(feature: Feature, side: str, rounding: Rounding) -> str:
    assert feature.stride is not None
    above, below = feature.stride.denominator, feature.stride.numerator
    many = "" if above == 1 else str(above)
    if feature.offset:
        side = f"({side}{'-' if feature.offset > 0 else '+'}{abs(feature.offset)})"
    if below == 1:
        return f"{many}{side}"
    return f"{many}{side}/{below}" if rounding == "exact" else f"{rounding}({many}{side}/{below})"
