"""Finding out by trial which image sizes a network takes, and what its strides are at those. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import lcm

from composer.sizes import SizeConstraint

Grids = tuple[tuple[int, int], ...]
"""(rows, columns) of each level."""

GridFunction = Callable[[int, int], Grids | None]
"""The grids that a network gives for an image of (height, width); None where it raises."""


def find_strides_and_sizes(
    grids_at: GridFunction, size: tuple[int, int], reductions: tuple[int, ...]
) -> tuple[tuple[Fraction, ...], SizeConstraint] | None:
    """The exact strides of a network's levels, and the image sizes at which they hold.

    `size` is one that the network is known to take, `reductions` what it says of itself, which is only believed
    where it is found to be true: at two sizes that are not square, on odd and even grids. Block attention and the
    like ask for 2, 4 or 8 times the largest reduction. A network that takes no other size, or whose grids do not
    follow its strides, is described at `size` alone, where any grid is an exact ratio of the image. None where
    the two sides have different strides there.
    """
    step = lcm(*reductions)
    if step <= max(size):
        for multiple in (step, 2 * step, 4 * step, 8 * step):
            strides = _find_flexible_strides(grids_at, size, multiple)
            if strides is not None:
                return strides, SizeConstraint(
                    multiple=multiple, least=_find_min_side(grids_at, strides, multiple, max(size))
                )
    grids = grids_at(*size)
    strides = None if grids is None else _compute_strides(grids, *size)
    return None if strides is None else (strides, SizeConstraint(height=size[0], width=size[1]))


def _find_flexible_strides(grids_at: GridFunction, size: tuple[int, int], multiple: int) -> tuple[Fraction, ...] | None:
    odd = max(size) // multiple | 1
    one, other = (odd * multiple, (odd + 1) * multiple), ((odd + 1) * multiple, max(odd - 2, 1) * multiple)
    strides = _compute_strides_at(grids_at, *one)
    return strides if strides is not None and strides == _compute_strides_at(grids_at, *other) else None


def _compute_strides_at(grids_at: GridFunction, height: int, width: int) -> tuple[Fraction, ...] | None:
    grids = grids_at(height, width)
    return None if grids is None else _compute_strides(grids, height, width)


def _compute_strides(grids: Grids, height: int, width: int) -> tuple[Fraction, ...] | None:
    if any(Fraction(height, rows) != Fraction(width, columns) for rows, columns in grids):
        return None
    return tuple(Fraction(height, rows) for rows, _ in grids)


def _find_min_side(grids_at: GridFunction, strides: tuple[Fraction, ...], multiple: int, known: int) -> int:
    """The smallest multiple at which the network runs and keeps its strides."""
    for side in range(multiple, known, multiple):
        if _compute_strides_at(grids_at, side, side) == strides:
            return side
    return multiple * -(-known // multiple)
