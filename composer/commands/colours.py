"""Colours: a distinct one for each class, and a ramp for numbers. Arrays in, arrays out."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]

_CLASS_COLOURS: tuple[Colour, ...] = (
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
"""The first classes, chosen by eye to be told apart. Further ones are found."""

MAX_COLOURS = 256

_BRIGHTNESS = np.array([0.3, 0.59, 0.11])

_RAMP = np.array([(41, 18, 84), (49, 77, 150), (27, 136, 150), (87, 190, 108), (251, 232, 88)], dtype=np.float64)
"""From low to high: ever lighter, so that it also reads in grey."""

NO_DATA_COLOUR: Colour = (205, 205, 205)
"""Where there is no number to show."""


def get_class_colour(index: int) -> Colour:
    """The colour of a class, always the same one for the same index; a colour comes back after 256 classes."""
    return _build_palette()[index % MAX_COLOURS]


@cache
def _build_palette() -> tuple[Colour, ...]:
    """The colours chosen by eye; after them always the one of a grid that is farthest from all those before it."""
    levels = np.linspace(20, 245, 10)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid[grid @ _BRIGHTNESS < 225]  # white is the paper
    chosen = np.array(_CLASS_COLOURS, dtype=np.float64)
    nearest = _compute_colour_distance(grid[:, None], chosen[None]).min(axis=1)
    while len(chosen) < MAX_COLOURS:
        farthest = grid[nearest.argmax()]
        chosen = np.vstack([chosen, farthest])
        nearest = np.minimum(nearest, _compute_colour_distance(grid, farthest))
    return tuple((round(red), round(green), round(blue)) for red, green, blue in chosen.tolist())


def _compute_colour_distance(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """How different colours look, roughly: the eye tells greens apart best."""
    squares: NDArray[Any] = ((one - other) ** 2 * (2, 4, 3)).sum(axis=-1)
    return squares


def render_classes(indices: NDArray[Any]) -> NDArray[np.uint8]:
    """Class indices (height, width) as RGB (height, width, 3)."""
    present, position = np.unique(indices, return_inverse=True)
    table = np.array([get_class_colour(int(index)) for index in present], dtype=np.uint8)
    painted: NDArray[np.uint8] = table[position.reshape(indices.shape)]
    return painted


def render_values(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Numbers of any shape as RGB: the ramp from `low` to `high`, and grey where a number is not finite."""
    finite = np.isfinite(values)
    span = high - low
    places = np.where(finite, values - low, 0) / span if span > 0 else np.zeros(values.shape)
    stops = np.linspace(0, 1, len(_RAMP))
    channels = [np.interp(places, stops, _RAMP[:, channel]) for channel in range(3)]
    painted = np.stack(channels, axis=-1).round().astype(np.uint8)
    painted[~finite] = NO_DATA_COLOUR
    return painted
