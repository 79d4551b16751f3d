"""The shapes that leave a graph: as symbols, and for an image or two. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from composer.typed import Typed

if TYPE_CHECKING:
    from rich.console import RenderableType

EXAMPLE = 224
"""A side of the example image, rounded up to what the graph takes."""

ODD = (225, 300)
"""An example that most graphs have to pad."""


def outputs_table(typed: Typed) -> RenderableType:
    """The shape of every output, for an image or two."""
    from rich import box
    from rich.table import Table

    sizes = list(examples(typed))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("output")
    for size in sizes:
        padded = typed.sizes.nearest(*size)
        assert padded is not None
        inside = f"\npadded to {padded[0]} × {padded[1]}" if padded != size else ""
        table.add_column(f"image of {size[0]} × {size[1]}{inside}")
    labels = {node: f" ({label}, auxiliary)" for label, node in typed.graph.auxiliary}
    for end in dict.fromkeys(typed.ends):
        note = labels.get(end, "") if end not in typed.graph.outputs else ""
        table.add_row(f"{end}{note}", *(shape_text(typed.shape(end, *size)) for size in sizes))
    return table


def examples(typed: Typed) -> Iterator[tuple[int, int]]:
    """Sizes to show the outputs' shapes for: one that the graph takes, and where it may be, one that is padded."""
    whole = typed.sizes.nearest(EXAMPLE, EXAMPLE) or typed.sizes.nearest(1, 1)
    assert whole is not None
    yield whole
    if typed.sizes.nearest(*ODD) is not None:
        yield ODD


def shape_text(shape: Sequence[object]) -> str:
    """`(b, 10, 288, 512)`."""
    return f"({', '.join(map(str, shape))})"


def symbolic(typed: Typed, end: str) -> tuple[str | int, ...]:
    """The shape of an output for an image of `H` by `W` pixels: `("b", 10, "H", "W")`, or `"ceil(H/4)"` for cells."""
    (feature,) = typed.features[end]
    if feature.stride is None:
        return ("b", feature.channels)
    if typed.rescaled(feature) or feature.stride == 1:
        return ("b", feature.channels, "H", "W")
    above, below = feature.stride.denominator, feature.stride.numerator
    many = "" if above == 1 else str(above)
    sides = (f"ceil({many}{side}/{below})" if below > 1 else f"{many}{side}" for side in "HW")
    return ("b", feature.channels, *sides)
