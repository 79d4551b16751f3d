"""Inputs and predictions drawn side by side, each in a panel with its title above and its legend below."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import ceil, isqrt

import numpy as np
from attrs import frozen
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from composer.commands.colours import Colour, class_colour, painted_classes, painted_values
from composer.commands.predictions import Classes, Numbers, Prediction, Scores, Values, percent
from composer.feature import counted

MARGIN = 28
"""Around the sheet, and between panels."""

HEAD = 40
"""The height of a panel's title."""

TITLE, TEXT = 22, 17
ROW = 28
"""The height of a line of a legend."""

SWATCH = 16
NARROWEST = 320
"""The width of a panel at least, so that its legend can be read."""

LARGEST, SMALLEST = 1024, 384
"""The longer side of a picture as it is drawn."""

MOST_ROWS = 8
"""Lines of a legend of classes; the classes of the smallest shares are summed up."""

INK: Colour = (28, 28, 30)
FAINT: Colour = (110, 110, 116)
RULE: Colour = (222, 222, 226)
PAPER: Colour = (255, 255, 255)


@frozen(eq=False)
class Panel:
    """A picture with its title, what is said beside the title, and a legend of the same width."""

    title: str
    subtitle: str
    picture: Image.Image | None = None
    legend: Image.Image | None = None


def drawn_size(height: int, width: int) -> tuple[int, int]:
    """(width, height) that an image is drawn at: large ones smaller, small ones by a whole factor larger."""
    longest = max(height, width)
    if longest > LARGEST:
        return max(width * LARGEST // longest, 1), max(height * LARGEST // longest, 1)
    factor = ceil(SMALLEST / longest)
    return width * factor, height * factor


def input_panel(name: str, pixels: NDArray[np.uint8], said: str, size: tuple[int, int]) -> Panel:
    """An image that the model is given, RGB (height, width, 3), drawn at `size`."""
    return Panel(name, said, _resized(pixels, size))


def prediction_panel(prediction: Prediction, size: tuple[int, int]) -> Panel:
    """What the model says, its maps drawn at `size`."""
    width = max(size[0], NARROWEST)
    match prediction:
        case Classes():
            picture = Image.fromarray(painted_classes(prediction.indices)).resize(size, Image.Resampling.NEAREST)
            said = f"{len(prediction.shares)} of {counted(prediction.count, 'class', 'classes')}"
            return Panel(prediction.name, said, picture, _class_legend(prediction.shares, width))
        case Values():
            low, high = prediction.range
            picture = _resized(painted_values(prediction.values, low, high), size)
            return Panel(prediction.name, "values", picture, _scale_bar(low, high, width))
        case Scores():
            return Panel(prediction.name, "probabilities", None, _score_table(prediction.best, width))
        case Numbers():
            return Panel(prediction.name, "numbers", None, _number_table(prediction.first, width))


def _resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    """A picture at `size`: pixels stay sharp where they grow, and are averaged where they shrink."""
    shrinks = size[0] < pixels.shape[1]
    return Image.fromarray(pixels).resize(size, Image.Resampling.BOX if shrinks else Image.Resampling.NEAREST)


def sheet(panels: Sequence[Panel]) -> Image.Image:
    """All panels on one white sheet: up to three in a row, more in a grid."""
    columns = len(panels) if len(panels) <= 3 else isqrt(len(panels) - 1) + 1
    blocks = [_block(panel) for panel in panels]
    rows = [blocks[start : start + columns] for start in range(0, len(blocks), columns)]
    widths = [max(row[column].width for row in rows if column < len(row)) for column in range(columns)]
    heights = [max(block.height for block in row) for row in rows]
    whole = Image.new("RGB", (sum(widths) + MARGIN * (columns + 1), sum(heights) + MARGIN * (len(rows) + 1)), PAPER)
    top = MARGIN
    for row, height in zip(rows, heights, strict=True):
        left = MARGIN
        for block, width in zip(row, widths, strict=False):
            whole.paste(block, (left, top))
            left += width + MARGIN
        top += height + MARGIN
    return whole


def _block(panel: Panel) -> Image.Image:
    parts = [part for part in (panel.picture, panel.legend) if part is not None]
    width = max(NARROWEST, *(part.width for part in parts))
    block = Image.new("RGB", (width, HEAD + sum(part.height for part in parts)), PAPER)
    draw = ImageDraw.Draw(block)
    taken = _write(draw, (0, HEAD // 2 - 4), panel.title, TITLE, width=width)
    if taken + 16 + font(TEXT).getlength(panel.subtitle) <= width:
        _write(draw, (width, HEAD // 2 - 3), panel.subtitle, TEXT, FAINT, anchor="rm", width=width)
    top = HEAD
    for part in parts:
        block.paste(part, (0, top))
        top += part.height
    return block


def _class_legend(shares: Sequence[tuple[int, float]], width: int) -> Image.Image:
    """Swatch, class and share, down the columns; what does not fit in the rows is summed up in the last line."""
    labels = [(f"class {index}", percent(share)) for index, share in shares]
    cell = SWATCH + 36 + max(int(font(TEXT).getlength(label + share)) for label, share in labels)
    columns = max((width + 24) // (cell + 24), 1)
    fits = len(shares) <= columns * MOST_ROWS
    told = len(shares) if fits else columns * (MOST_ROWS - 1)
    rows = ceil(told / columns)
    legend = Image.new("RGB", (width, 12 + ROW * (rows + (not fits))), PAPER)
    draw = ImageDraw.Draw(legend)
    for place, ((index, _), (label, share)) in enumerate(zip(shares[:told], labels[:told], strict=True)):
        left, middle = place // rows * (cell + 24), 12 + place % rows * ROW + ROW // 2
        box = (left, middle - SWATCH // 2, left + SWATCH - 1, middle + SWATCH // 2 - 1)
        draw.rectangle(box, fill=class_colour(index))
        _write(draw, (left + SWATCH + 10, middle), label, TEXT)
        _write(draw, (left + cell, middle), share, TEXT, FAINT, anchor="rm")
    if not fits:
        others = [share for _, share in shares[told:]]
        rest = f"and {counted(len(others), 'more class', 'more classes')}, {percent(sum(others))}"
        _write(draw, (0, 12 + rows * ROW + ROW // 2), rest, TEXT, FAINT)
    return legend


def _scale_bar(low: float, high: float, width: int) -> Image.Image:
    """The ramp from the smallest to the largest number, with both and the middle below."""
    legend = Image.new("RGB", (width, 12 + SWATCH + ROW), PAPER)
    ramp = painted_values(np.linspace(low, high, width), low, high)
    legend.paste(Image.fromarray(np.repeat(ramp[None], SWATCH, axis=0)), (0, 12))
    draw = ImageDraw.Draw(legend)
    below = 12 + SWATCH + ROW // 2
    if low == high:
        _write(draw, (0, below), f"{low:.4g} everywhere", TEXT)
        return legend
    for left, number, anchor in ((0, low, "lm"), (width // 2, (low + high) / 2, "mm"), (width, high, "rm")):
        _write(draw, (left, below), f"{number:.4g}", TEXT, anchor=anchor)
    return legend


def _score_table(best: Sequence[tuple[int, float]], width: int) -> Image.Image:
    """A line for each class, with a bar as long as its probability."""
    table = Image.new("RGB", (width, ROW * 3 // 2 * len(best)), PAPER)
    draw = ImageDraw.Draw(table)
    label = 16 + max(int(font(TEXT).getlength(f"class {index}")) for index, _ in best)
    full = width - label - 16 - int(font(TEXT).getlength("100.0 %"))
    for place, (index, probability) in enumerate(best):
        middle = place * (ROW * 3 // 2) + ROW * 3 // 4
        _write(draw, (0, middle), f"class {index}", TEXT)
        box = (label, middle - SWATCH // 2, label + full - 1, middle + SWATCH // 2 - 1)
        draw.rectangle(box, fill=RULE)
        if np.isfinite(probability) and round(full * probability):
            draw.rectangle((*box[:2], label + round(full * probability) - 1, box[3]), fill=class_colour(0))
        _write(draw, (width, middle), percent(probability), TEXT, anchor="rm")
    return table


def _number_table(first: Sequence[tuple[int, float]], width: int) -> Image.Image:
    """A line for each number."""
    table = Image.new("RGB", (width, ROW * len(first)), PAPER)
    draw = ImageDraw.Draw(table)
    for place, (index, number) in enumerate(first):
        middle = place * ROW + ROW // 2
        _write(draw, (0, middle), f"[{index}]", TEXT, FAINT)
        _write(draw, (width, middle), f"{number:.4g}", TEXT, anchor="rm")
    return table


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, in a size."""
    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont)
    return found


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    size: int,
    ink: Colour = INK,
    *,
    anchor: str = "lm",
    width: int | None = None,
) -> int:
    """Write one line, cut short where it is longer than `width`. Returns the width that it takes."""
    letters = font(size)
    if width is not None and letters.getlength(text) > width:
        while text and letters.getlength(f"{text}…") > width:
            text = text[:-1]
        text = f"{text}…"
    draw.text(place, text, ink, letters, anchor=anchor)
    return ceil(letters.getlength(text))
