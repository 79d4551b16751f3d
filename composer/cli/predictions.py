"""Predictions as data, and as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from colorsys import hls_to_rgb
from math import ceil, isqrt
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

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


INK: Colour = (28, 28, 30)

PAPER: Colour = (255, 255, 255)

PANEL_MARGIN, TITLE_HEIGHT, LINE_HEIGHT, SWATCH_SIZE, MIN_PANEL_WIDTH = 28, 40, 28, 16, 320
"""Pixels of a sheet."""

TITLE_SIZE, TEXT_SIZE = 22, 17

MAX_PICTURE_SIDE, MIN_PICTURE_SIDE = 1024, 384
"""The longer side of a picture as it is drawn."""


def compute_drawn_size(height: int, width: int) -> tuple[int, int]:
    """Return (width, height) of an image as it is drawn: large ones smaller, small ones by a whole factor larger."""
    longest = max(height, width)
    if longest > MAX_PICTURE_SIDE:
        return max(width * MAX_PICTURE_SIDE // longest, 1), max(height * MAX_PICTURE_SIDE // longest, 1)
    factor = ceil(MIN_PICTURE_SIDE / longest)
    return width * factor, height * factor


def compose_sheet(
    inputs: Sequence[tuple[str, NDArray[np.uint8]]], predictions: Sequence[Prediction], size: tuple[int, int]
) -> Image.Image:
    """Draw inputs and predictions on one white sheet: up to three panels in a row, more in a grid.

    `inputs` are names and RGB (height, width, 3); all pictures are drawn at `size` (width, height).
    """
    panels = [_draw_panel(name, resize_pixels(pixels, size)) for name, pixels in inputs]
    for prediction in predictions:
        pixels, has_classes = prediction.pixels, prediction.has_classes
        picture = None if pixels is None else resize_pixels(pixels, size, average=not has_classes)
        panels.append(_draw_panel(prediction.name, picture, prediction.legend))
    columns = len(panels) if len(panels) <= 3 else isqrt(len(panels) - 1) + 1
    rows = ceil(len(panels) / columns)
    across = max(panel.width for panel in panels) + PANEL_MARGIN
    down = max(panel.height for panel in panels) + PANEL_MARGIN
    sheet = Image.new("RGB", (across * columns + PANEL_MARGIN, down * rows + PANEL_MARGIN), PAPER)
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        sheet.paste(panel, (PANEL_MARGIN + across * column, PANEL_MARGIN + down * row))
    return sheet


def resize_pixels(pixels: NDArray[np.uint8], size: tuple[int, int], *, average: bool = True) -> Image.Image:
    """Resize RGB (height, width, 3) to `size` (width, height).

    Pixels stay sharp where they grow, and are averaged where they shrink, unless they are colours of classes.
    """
    shrinks = average and size[0] < pixels.shape[1]
    return Image.fromarray(pixels).resize(size, Image.Resampling.BOX if shrinks else Image.Resampling.NEAREST)


def _draw_panel(
    title: str, picture: Image.Image | None, legend: Sequence[tuple[Colour | None, str]] = ()
) -> Image.Image:
    """Draw a titled picture with the lines of its legend below it, each after a swatch of its colour."""
    width, height = picture.size if picture else (0, 0)
    panel = Image.new("RGB", (max(width, MIN_PANEL_WIDTH), TITLE_HEIGHT + height + LINE_HEIGHT * len(legend)), PAPER)
    draw = ImageDraw.Draw(panel)
    font = ImageFont.load_default(TEXT_SIZE)
    draw.text((0, TITLE_HEIGHT // 2 - 4), title, INK, ImageFont.load_default(TITLE_SIZE), anchor="lm")
    if picture:
        panel.paste(picture, (0, TITLE_HEIGHT))
    for number, (colour, text) in enumerate(legend):
        middle = TITLE_HEIGHT + height + LINE_HEIGHT * number + LINE_HEIGHT // 2
        if colour is not None:
            top = middle - SWATCH_SIZE // 2
            draw.rectangle((0, top, SWATCH_SIZE - 1, top + SWATCH_SIZE - 1), fill=colour)
        draw.text((SWATCH_SIZE + 10, middle), text, INK, font, anchor="lm")
    return panel
