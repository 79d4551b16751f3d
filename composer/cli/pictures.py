"""Draw predictions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import ceil, isqrt

import numpy as np
from attrs import frozen
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from composer.cli.inputs import Colour, get_class_colour, render_classes, render_values
from composer.cli.predictions import ClassMap, ClassProbabilities, Prediction, Scalars, ValueMap, format_percent
from composer.layouts import format_count

PANEL_MARGIN = 28
"""Around the sheet, and between panels."""


TITLE_HEIGHT = 40
"""The height of a panel's title."""


TITLE_SIZE, TEXT_SIZE = 22, 17


LEGEND_ROW_HEIGHT = 28
"""The height of a line of a legend."""


SWATCH_SIZE = 16


MIN_PANEL_WIDTH = 320
"""The width of a panel at least, so that its legend can be read."""


MAX_PICTURE_SIDE, MIN_PICTURE_SIDE = 1024, 384
"""The longer side of a picture as it is drawn."""


MAX_LEGEND_ROWS = 8
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


def compute_drawn_size(height: int, width: int) -> tuple[int, int]:
    """(width, height) that an image is drawn at: large ones smaller, small ones by a whole factor larger."""
    longest = max(height, width)
    if longest > MAX_PICTURE_SIDE:
        return max(width * MAX_PICTURE_SIDE // longest, 1), max(height * MAX_PICTURE_SIDE // longest, 1)
    factor = ceil(MIN_PICTURE_SIDE / longest)
    return width * factor, height * factor


def build_input_panel(name: str, pixels: NDArray[np.uint8], said: str, size: tuple[int, int]) -> Panel:
    """An image that the model is given, RGB (height, width, 3), drawn at `size`."""
    return Panel(name, said, _resize_pixels(pixels, size))


def build_prediction_panel(prediction: Prediction, size: tuple[int, int]) -> Panel:
    """What the model says, its maps drawn at `size`."""
    width = max(size[0], MIN_PANEL_WIDTH)
    match prediction:
        case ClassMap():
            picture = Image.fromarray(render_classes(prediction.indices)).resize(size, Image.Resampling.NEAREST)
            said = f"{len(prediction.shares)} of {format_count(prediction.count, 'class', 'classes')}"
            return Panel(prediction.name, said, picture, _draw_class_legend(prediction.shares, width))
        case ValueMap():
            low, high = prediction.range
            picture = _resize_pixels(render_values(prediction.values, low, high), size)
            return Panel(prediction.name, "values", picture, _draw_scale_bar(low, high, width))
        case ClassProbabilities():
            return Panel(prediction.name, "probabilities", None, _draw_score_table(prediction.best, width))
        case Scalars():
            return Panel(prediction.name, "numbers", None, _draw_scalar_table(prediction.first, width))


def _resize_pixels(pixels: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    """A picture at `size`: pixels stay sharp where they grow, and are averaged where they shrink."""
    shrinks = size[0] < pixels.shape[1]
    return Image.fromarray(pixels).resize(size, Image.Resampling.BOX if shrinks else Image.Resampling.NEAREST)


def compose_sheet(panels: Sequence[Panel]) -> Image.Image:
    """All panels on one white sheet: up to three in a row, more in a grid."""
    columns = len(panels) if len(panels) <= 3 else isqrt(len(panels) - 1) + 1
    blocks = [_compose_panel(panel) for panel in panels]
    rows = [blocks[start : start + columns] for start in range(0, len(blocks), columns)]
    widths = [max(row[column].width for row in rows if column < len(row)) for column in range(columns)]
    heights = [max(block.height for block in row) for row in rows]
    whole = Image.new(
        "RGB", (sum(widths) + PANEL_MARGIN * (columns + 1), sum(heights) + PANEL_MARGIN * (len(rows) + 1)), PAPER
    )
    top = PANEL_MARGIN
    for row, height in zip(rows, heights, strict=True):
        left = PANEL_MARGIN
        for block, width in zip(row, widths, strict=False):
            whole.paste(block, (left, top))
            left += width + PANEL_MARGIN
        top += height + PANEL_MARGIN
    return whole


def _compose_panel(panel: Panel) -> Image.Image:
    parts = [part for part in (panel.picture, panel.legend) if part is not None]
    width = max(MIN_PANEL_WIDTH, *(part.width for part in parts))
    block = Image.new("RGB", (width, TITLE_HEIGHT + sum(part.height for part in parts)), PAPER)
    draw = ImageDraw.Draw(block)
    taken = _draw_text(draw, (0, TITLE_HEIGHT // 2 - 4), panel.title, TITLE_SIZE, width=width)
    if taken + 16 + load_font(TEXT_SIZE).getlength(panel.subtitle) <= width:
        _draw_text(draw, (width, TITLE_HEIGHT // 2 - 3), panel.subtitle, TEXT_SIZE, FAINT, anchor="rm", width=width)
    top = TITLE_HEIGHT
    for part in parts:
        block.paste(part, (0, top))
        top += part.height
    return block


def _draw_class_legend(shares: Sequence[tuple[int, float]], width: int) -> Image.Image:
    """Swatch, class and share, down the columns; what does not fit in the rows is summed up in the last line."""
    labels = [(f"class {index}", format_percent(share)) for index, share in shares]
    cell = SWATCH_SIZE + 36 + max(int(load_font(TEXT_SIZE).getlength(label + share)) for label, share in labels)
    columns = max((width + 24) // (cell + 24), 1)
    fits = len(shares) <= columns * MAX_LEGEND_ROWS
    told = len(shares) if fits else columns * (MAX_LEGEND_ROWS - 1)
    rows = ceil(told / columns)
    legend = Image.new("RGB", (width, 12 + LEGEND_ROW_HEIGHT * (rows + (not fits))), PAPER)
    draw = ImageDraw.Draw(legend)
    for place, ((index, _), (label, share)) in enumerate(zip(shares[:told], labels[:told], strict=True)):
        left, middle = place // rows * (cell + 24), 12 + place % rows * LEGEND_ROW_HEIGHT + LEGEND_ROW_HEIGHT // 2
        box = (left, middle - SWATCH_SIZE // 2, left + SWATCH_SIZE - 1, middle + SWATCH_SIZE // 2 - 1)
        draw.rectangle(box, fill=get_class_colour(index))
        _draw_text(draw, (left + SWATCH_SIZE + 10, middle), label, TEXT_SIZE)
        _draw_text(draw, (left + cell, middle), share, TEXT_SIZE, FAINT, anchor="rm")
    if not fits:
        others = [share for _, share in shares[told:]]
        rest = f"and {format_count(len(others), 'more class', 'more classes')}, {format_percent(sum(others))}"
        _draw_text(draw, (0, 12 + rows * LEGEND_ROW_HEIGHT + LEGEND_ROW_HEIGHT // 2), rest, TEXT_SIZE, FAINT)
    return legend


def _draw_scale_bar(low: float, high: float, width: int) -> Image.Image:
    """The ramp from the smallest to the largest number, with both and the middle below."""
    legend = Image.new("RGB", (width, 12 + SWATCH_SIZE + LEGEND_ROW_HEIGHT), PAPER)
    ramp = render_values(np.linspace(low, high, width), low, high)
    legend.paste(Image.fromarray(np.repeat(ramp[None], SWATCH_SIZE, axis=0)), (0, 12))
    draw = ImageDraw.Draw(legend)
    below = 12 + SWATCH_SIZE + LEGEND_ROW_HEIGHT // 2
    if low == high:
        _draw_text(draw, (0, below), f"{low:.4g} everywhere", TEXT_SIZE)
        return legend
    for left, number, anchor in ((0, low, "lm"), (width // 2, (low + high) / 2, "mm"), (width, high, "rm")):
        _draw_text(draw, (left, below), f"{number:.4g}", TEXT_SIZE, anchor=anchor)
    return legend


def _draw_score_table(best: Sequence[tuple[int, float]], width: int) -> Image.Image:
    """A line for each class, with a bar as long as its probability."""
    table = Image.new("RGB", (width, LEGEND_ROW_HEIGHT * 3 // 2 * len(best)), PAPER)
    draw = ImageDraw.Draw(table)
    label = 16 + max(int(load_font(TEXT_SIZE).getlength(f"class {index}")) for index, _ in best)
    full = width - label - 16 - int(load_font(TEXT_SIZE).getlength("100.0 %"))
    for place, (index, probability) in enumerate(best):
        middle = place * (LEGEND_ROW_HEIGHT * 3 // 2) + LEGEND_ROW_HEIGHT * 3 // 4
        _draw_text(draw, (0, middle), f"class {index}", TEXT_SIZE)
        box = (label, middle - SWATCH_SIZE // 2, label + full - 1, middle + SWATCH_SIZE // 2 - 1)
        draw.rectangle(box, fill=RULE)
        if np.isfinite(probability) and round(full * probability):
            draw.rectangle((*box[:2], label + round(full * probability) - 1, box[3]), fill=get_class_colour(0))
        _draw_text(draw, (width, middle), format_percent(probability), TEXT_SIZE, anchor="rm")
    return table


def _draw_scalar_table(first: Sequence[tuple[int, float]], width: int) -> Image.Image:
    """A line for each number."""
    table = Image.new("RGB", (width, LEGEND_ROW_HEIGHT * len(first)), PAPER)
    draw = ImageDraw.Draw(table)
    for place, (index, number) in enumerate(first):
        middle = place * LEGEND_ROW_HEIGHT + LEGEND_ROW_HEIGHT // 2
        _draw_text(draw, (0, middle), f"[{index}]", TEXT_SIZE, FAINT)
        _draw_text(draw, (width, middle), f"{number:.4g}", TEXT_SIZE, anchor="rm")
    return table


@cache
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, in a size."""
    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont)
    return found


def _draw_text(
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
    letters = load_font(size)
    if width is not None and letters.getlength(text) > width:
        while text and letters.getlength(f"{text}…") > width:
            text = text[:-1]
        text = f"{text}…"
    draw.text(place, text, ink, letters, anchor=anchor)
    return ceil(letters.getlength(text))
