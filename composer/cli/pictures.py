"""Decode predictions, and draw them beside the images."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, isqrt
from typing import Any, Literal

import numpy as np
from attrs import frozen
from matplotlib import color_sequences, colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from composer.adapters.mmseg.parts import Mmseg
from composer.layouts import format_count
from composer.parts import ASPPRegressionHead, Part, RegressionHead, ScalarHead

Array = NDArray[Any]

NO_DATA_LEVEL = 205
"""The grey of pixels without data."""

CLASS_COLOURS = np.concatenate([color_sequences[name] for name in ("tab10", "Dark2", "Set2", "tab20b", "tab20c")])
"""The colours of the classes, in turn: first those that differ most."""

MAX_PRINTED, MAX_DRAWN = 5, 10
"""Classes and numbers of one prediction that are printed and drawn."""

DOTS_PER_INCH = 100

MIN_SIDE, MAX_SIDE = 4, 10
"""The longer side of a drawn image, in inches."""

MAX_ASPECT = 20
"""The longer side of an image that is drawn with square pixels, in shorter sides."""

LEGEND_WIDTH, TITLE_HEIGHT = 1.8, 0.6
"""Inches beside and above a drawn image."""


@frozen(eq=False)
class InputImage:
    """An input of the model as RGB (height, width, 3)."""

    name: str
    pixels: NDArray[np.uint8]

    def draw(self, axes: Axes) -> None:
        """Draw the image; a small one with sharp pixels."""
        _draw_map(axes, self.pixels)


@frozen(eq=False)
class ClassMap:
    """Indices of classes (height, width), of `count` classes in all."""

    name: str
    indices: Array
    count: int

    def list_shares(self) -> list[tuple[int, float]]:
        """Return the classes that occur, and their shares of the pixels, largest first."""
        counts = np.bincount(self.indices.ravel()).tolist()
        pairs = [(index, count / self.indices.size) for index, count in enumerate(counts) if count]
        return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))

    def __str__(self) -> str:
        """`head: 3 of 10 classes: class 2 61.0%, class 0 30.2%, class 7 8.8%`."""
        lines = [_format_class(*pair) for pair in self.list_shares()]
        count = f"{len(lines)} of {format_count(self.count, 'class', 'classes')}"
        return f"{self.name}: {count}: {_join_first(lines)}"

    def draw(self, axes: Axes) -> None:
        """Draw each class in its colour, with a legend of the largest."""
        shares = self.list_shares()
        _draw_map(axes, get_class_colours(self.indices), interpolation="nearest")
        handles = [
            Patch(color=tuple(get_class_colours(index) / 255), label=_format_class(index, share))
            for index, share in shares[:MAX_DRAWN]
        ]
        if rest := shares[MAX_DRAWN:]:
            others = format_count(len(rest), "more class", "more classes")
            handles.append(Patch(color="none", label=f"{others} {sum(share for _, share in rest):.1%}"))
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


@frozen(eq=False)
class ValueMap:
    """Numbers (height, width)."""

    name: str
    values: Array

    def __str__(self) -> str:
        """`height: 0.2 to 31.5, mean 12.7`."""
        finite = self.values[np.isfinite(self.values)].astype(np.float64)
        others = self.values.size - finite.size
        remark = f"{format_count(others, 'pixel')} not finite" if others else ""
        numbers = f"{finite.min():.4g} to {finite.max():.4g}, mean {finite.mean():.4g}" if finite.size else ""
        return f"{self.name}: {', '.join(filter(None, (numbers, remark)))}"

    def draw(self, axes: Axes) -> None:
        """Draw the numbers with a colour bar, and those that are not finite in grey."""
        colours = colormaps["viridis"].with_extremes(bad=str(NO_DATA_LEVEL / 255))
        image = _draw_map(axes, np.ma.masked_invalid(self.values), cmap=colours)
        axes.figure.colorbar(image, ax=axes, shrink=0.8)


@frozen(eq=False)
class Vector:
    """Numbers for the whole image, with a label for each; the largest come first if they are `probabilities`."""

    name: str
    numbers: Array
    are_probabilities: bool = False

    def list_lines(self) -> list[tuple[str, float, str]]:
        """Return the label, number and formatted number of each, in the order of printing."""
        numbers = self.numbers.tolist()
        if not self.are_probabilities:
            return [(f"[{index}]", number, f"{number:.4g}") for index, number in enumerate(numbers)]
        order = np.argsort(-self.numbers, kind="stable").tolist()
        return [(f"class {index}", numbers[index], f"{numbers[index]:.1%}") for index in order]

    def __str__(self) -> str:
        """`scene: class 3 61.0%, class 0 30.2%` or `biomass: [0] 31.5, [1] 12.7`."""
        return f"{self.name}: {_join_first([f'{label} {text}' for label, _, text in self.list_lines()])}"

    def draw(self, axes: Axes) -> None:
        """Draw a bar for each number."""
        labels, numbers, texts = zip(*self.list_lines()[:MAX_DRAWN], strict=True)
        bars = axes.barh(labels, np.nan_to_num(numbers, posinf=0, neginf=0))
        axes.bar_label(bars, texts, padding=4)
        axes.margins(x=0.25)
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)


Prediction = ClassMap | ValueMap | Vector

Panel = InputImage | Prediction


def decode_predictions(name: str, part: Part, output: Array) -> Sequence[Prediction]:
    """Decode the output of node `name`: (channels,) or (channels, height, width), without the batch.

    Vectors of heads are scores of classes, except those of a ScalarHead. Maps of regression heads are values, and so is
    the single map of a part without a head or of mmseg (its way to do regression). Other maps are scores of classes; a
    single one is the score of class 1 against class 0.
    """
    if output.ndim == 1:
        has_scores = part.includes_head and not isinstance(part, ScalarHead)
        return [Vector(name, _compute_softmax(output), are_probabilities=True) if has_scores else Vector(name, output)]
    is_single_value = len(output) == 1 and (not part.includes_head or isinstance(part, Mmseg))
    if isinstance(part, RegressionHead | ASPPRegressionHead) or is_single_value:
        names = [name] if len(output) == 1 else [f"{name}[{index}]" for index in range(len(output))]
        return [ValueMap(*pair) for pair in zip(names, output, strict=True)]
    if len(output) == 1:
        return [ClassMap(name, (output[0] > 0).astype(np.int64), 2)]
    return [ClassMap(name, output.argmax(axis=0), len(output))]


def _compute_softmax(scores: Array) -> Array:
    """Compute the softmax; a single score is that of class 1 against class 0."""
    numbers = scores.astype(np.float64)
    if len(numbers) == 1:
        numbers = np.array([0.0, numbers[0]])
    powers = np.exp(numbers - numbers.max())
    shares: Array = powers / powers.sum()
    return shares


def _format_class(index: int, share: float) -> str:
    return f"class {index} {share:.1%}"


def _join_first(lines: Sequence[str]) -> str:
    """Join the first lines; of more, say how many."""
    more = [f"and {len(lines) - MAX_PRINTED} more"] if len(lines) > MAX_PRINTED else []
    return ", ".join([*lines[:MAX_PRINTED], *more])


def get_class_colours(indices: Any) -> NDArray[np.uint8]:
    """Return RGB (…, 3) of class indices (…)."""
    colours: NDArray[np.uint8] = (
        (CLASS_COLOURS * 255).round().astype(np.uint8)[np.asarray(indices) % len(CLASS_COLOURS)]
    )
    return colours


def draw_sheet(panels: Sequence[Panel], height: int, width: int) -> Figure:
    """Draw panels on one sheet, whose images are (height, width): up to three in a row, more in a grid."""
    columns = len(panels) if len(panels) <= 3 else isqrt(len(panels) - 1) + 1
    rows = ceil(len(panels) / columns)
    longest = max(height, width)
    inches = min(max(longest / DOTS_PER_INCH, MIN_SIDE), MAX_SIDE) / longest
    figure = Figure(
        figsize=(columns * (max(width * inches, 2) + LEGEND_WIDTH), rows * (max(height * inches, 2) + TITLE_HEIGHT)),
        dpi=DOTS_PER_INCH,
        layout="constrained",
    )
    for number, panel in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, number, title=panel.name)
        panel.draw(axes)
    return figure


def _draw_map(axes: Axes, values: Array, interpolation: str | None = None, **options: Any) -> Any:
    """Draw an image without its ticks; one that is too narrow to be seen is stretched."""
    shorter, longer = sorted(values.shape[:2])
    axes.set_axis_off()
    aspect: Literal["auto", "equal"] = "auto" if longer > MAX_ASPECT * shorter else "equal"
    return axes.imshow(values, interpolation=interpolation, aspect=aspect, **options)
