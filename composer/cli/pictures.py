"""Draw a sheet with a panel for each input and each prediction."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, isqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from composer.cli.predictions import Colour, Prediction

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
