"""Decode the outputs of a model: classes or values per pixel, probabilities or numbers per image."""

from __future__ import annotations

from collections.abc import Sequence
from colorsys import hls_to_rgb
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from composer.adapters.mmseg.parts import Mmseg
from composer.layouts import format_count
from composer.parts import ASPPRegressionHead, Part, RegressionHead, ScalarHead

Array = NDArray[Any]
Colour = tuple[int, int, int]

CLASS_COLOURS: tuple[Colour, ...] = (
    (62, 95, 138),
    (240, 142, 44),
    (83, 158, 78),
    (214, 69, 75),
    (236, 201, 72),
    (146, 104, 173),
    (99, 194, 199),
    (150, 108, 78),
    (247, 154, 178),
    (57, 57, 63),
    (176, 207, 92),
    (163, 26, 112),
)
"""The colours of the first classes; those of further ones are computed."""

RAMP = np.array([(41, 18, 84), (49, 77, 150), (27, 136, 150), (87, 190, 108), (251, 232, 88)], dtype=np.float64)
"""The colours of values from low to high, ever lighter."""

NO_DATA_COLOUR: Colour = (205, 205, 205)

MAX_VALUE_MAPS = 4
"""Maps of values that are shown of one output; a message names the number of all."""

MAX_CLASSES, MAX_LEGEND_CLASSES, MAX_SCALARS = 5, 8, 8
"""Classes that are printed and drawn, and numbers that are printed, of one prediction."""


@frozen(eq=False)
class Prediction:
    """A prediction for one image: a line of text, and what is drawn.

    `pixels` is RGB (height, width, 3) for a map, and None for a vector. `legend` holds lines, some with a colour.
    """

    name: str
    text: str
    legend: Sequence[tuple[Colour | None, str]]
    pixels: NDArray[np.uint8] | None = None
    has_classes: bool = False

    def __str__(self) -> str:
        """`head: 3 of 10 classes: class 2 61.0 %, class 0 30.2 %, class 7 8.8 %`."""
        return f"{self.name}: {self.text}"


def decode_predictions(name: str, part: Part, output: Array) -> list[Prediction]:
    """Decode the output of node `name`: (channels,) or (channels, height, width), without the batch.

    Vectors of heads are scores of classes, except those of a ScalarHead. Maps of regression heads are values, and so is
    the single map of a part without a head or of mmseg (its way to do regression). Other maps are scores of classes; a
    single one is the score of class 1 against class 0.
    """
    if output.ndim == 1:
        has_scores = part.includes_head and not isinstance(part, ScalarHead)
        return [decode_probabilities(name, _compute_softmax(output)) if has_scores else decode_scalars(name, output)]
    is_single_value = len(output) == 1 and (not part.includes_head or isinstance(part, Mmseg))
    if isinstance(part, RegressionHead | ASPPRegressionHead) or is_single_value:
        names = [name] if len(output) == 1 else [f"{name}[{index}]" for index in range(len(output))]
        return [decode_values(*pair) for pair in zip(names, output, strict=True)]
    if len(output) == 1:
        return [decode_classes(name, (output[0] > 0).astype(np.int64), 2)]
    return [decode_classes(name, output.argmax(axis=0), len(output))]


def decode_classes(name: str, indices: Array, count: int) -> Prediction:
    """Decode class indices (height, width), of `count` classes in all."""
    present, pixels = np.unique(indices, return_counts=True)
    pairs = zip(present.tolist(), (pixels / indices.size).tolist(), strict=True)
    shares = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
    lines = [f"class {index} {format_percent(share)}" for index, share in shares]
    more = f", and {len(lines) - MAX_CLASSES} more" if len(lines) > MAX_CLASSES else ""
    text = f"{len(lines)} of {format_count(count, 'class', 'classes')}: {', '.join(lines[:MAX_CLASSES])}{more}"
    colours = [get_class_colour(index) for index, _ in shares[:MAX_LEGEND_CLASSES]]
    legend: list[tuple[Colour | None, str]] = list(zip(colours, lines, strict=False))
    if rest := shares[MAX_LEGEND_CLASSES:]:
        others = format_count(len(rest), "more class", "more classes")
        legend.append((None, f"and {others} {format_percent(sum(share for _, share in rest))}"))
    return Prediction(name, text, legend, render_classes(indices), has_classes=True)


def decode_values(name: str, values: Array) -> Prediction:
    """Decode a map of numbers (height, width)."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    mean = f", mean {finite.mean():.4g}" if finite.size else ""
    others = values.size - finite.size
    remark = f", {format_count(others, 'pixel')} not finite" if others else ""
    stops = [low] if low == high else [low, (low + high) / 2, high]
    colours = render_values(np.array(stops), low, high).tolist()
    legend = [((red, green, blue), f"{stop:.4g}") for (red, green, blue), stop in zip(colours, stops, strict=True)]
    return Prediction(name, f"{low:.4g} to {high:.4g}{mean}{remark}", legend, render_values(values, low, high))


def decode_probabilities(name: str, probabilities: Array) -> Prediction:
    """Decode the probabilities of all classes; the most probable ones are shown."""
    order = np.argsort(-probabilities, kind="stable")[:MAX_CLASSES]
    lines = [f"class {index} {format_percent(float(probabilities[index]))}" for index in order]
    return Prediction(name, ", ".join(lines), [(None, line) for line in lines])


def decode_scalars(name: str, numbers: Array) -> Prediction:
    """Decode numbers for the whole image; the first ones are shown."""
    first = [f"{number:.4g}" for number in numbers[:MAX_SCALARS].tolist()]
    more = len(numbers) - MAX_SCALARS
    text = ", ".join(first) + (f", and {more} more" if more > 0 else "")
    return Prediction(name, text, [(None, f"[{index}] {number}") for index, number in enumerate(first)])


def _compute_softmax(scores: Array) -> Array:
    """Compute the softmax; a single score is that of class 1 against class 0."""
    numbers = scores.astype(np.float64)
    if len(numbers) == 1:
        numbers = np.array([0.0, numbers[0]])
    powers = np.exp(numbers - numbers.max())
    shares: Array = powers / powers.sum()
    return shares


def format_percent(share: float) -> str:
    """`61.0 %`; shares that would round to 0 or 100 and are not are `<0.1 %` or `>99.9 %`."""
    return "<0.1 %" if 0 < share < 0.0005 else ">99.9 %" if 0.9995 <= share < 1 else f"{share * 100:.1f} %"


def get_class_colour(index: int) -> Colour:
    """Return the colour of a class, which depends on its index only."""
    if index < len(CLASS_COLOURS):
        return CLASS_COLOURS[index]
    # Steps of the golden ratio spread any number of hues evenly.
    red, green, blue = hls_to_rgb(index * 0.618034 % 1, (0.35, 0.5, 0.65)[index % 3], 0.6)
    return round(255 * red), round(255 * green), round(255 * blue)


def render_classes(indices: Array) -> NDArray[np.uint8]:
    """Convert class indices (height, width) to RGB (height, width, 3)."""
    present, position = np.unique(indices, return_inverse=True)
    table = np.array([get_class_colour(int(index)) for index in present], dtype=np.uint8)
    pixels: NDArray[np.uint8] = table[position.reshape(indices.shape)]
    return pixels


def render_values(values: Array, low: float, high: float) -> NDArray[np.uint8]:
    """Convert numbers of any shape to RGB: the ramp from `low` to `high`, and grey where a number is not finite."""
    finite = np.isfinite(values)
    positions = np.where(finite, values - low, 0) / (high - low) if high > low else np.zeros(values.shape)
    stops = np.linspace(0, 1, len(RAMP))
    channels = [np.interp(positions, stops, RAMP[:, channel]) for channel in range(3)]
    pixels = np.stack(channels, axis=-1).round().astype(np.uint8)
    pixels[~finite] = NO_DATA_COLOUR
    return pixels
