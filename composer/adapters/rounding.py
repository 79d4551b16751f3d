"""Find out by trial how a network rounds at image sizes that its strides do not divide.

Along one side, a convolution or a pooling of stride `s` makes `floor((n + a) / s)` cells of `n`, where `a` is a whole
number that follows from its kernel, dilation and padding. Two of them, one after the other, make
`floor((floor((n + a) / s) + b) / t) = floor((n + a + b * s) / (s * t))`, and so does a chain of any length: a single
`a` describes it. It rounds down with `a = 0` and up with `a = S - 1`, where `S` is the stride of the chain; any other
is an offset of `-a` in a feature. At any `S` sizes in a row, the cells of a chain add up to another sum for each `a`
(Hermite's identity), so what is right at all of those is right at every size.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from fractions import Fraction
from math import inf, lcm

from attrs import evolve, frozen

from composer.adapters.probing import GridFunction
from composer.layouts import Feature, Features
from composer.sizes import SizeConstraint


@frozen
class RoundingMismatch:
    """An image of (height, width) that a network rejects, or at which the grid of a level does not fit the others."""

    height: int
    width: int
    level: int | None = None
    grid: tuple[int, int] | None = None


def infer_rounding(
    grids_at: GridFunction, features: Features, sizes: SizeConstraint, known: int
) -> tuple[Features, SizeConstraint] | RoundingMismatch:
    """Return the levels of a network with their true roundings, and all the image sizes at which they hold.

    At `sizes` the levels are exact, and `known` is such a side. The sizes found have the smallest multiple at which
    each level rounds in one way: 1 in most networks. Where none is smaller than that of `sizes`, the mismatch that
    excludes a multiple of 1.
    """
    mismatches = []
    for multiple in (divisor for divisor in range(1, sizes.multiple) if sizes.multiple % divisor == 0):
        result = _infer_at_multiple(grids_at, features, sizes.multiple, multiple, known)
        if not isinstance(result, RoundingMismatch):
            return result
        mismatches.append(result)
    return mismatches[0] if mismatches else (features, sizes)


def infer_offsets(grids_at: GridFunction, features: Features, known: int) -> tuple[Features, SizeConstraint] | None:
    """Return the levels of a network with their offsets, and all the image sizes at which they hold, or None.

    `known` is a side that the network takes. Only the strides of `features` are taken to be true.
    """
    period = lcm(*(f.stride.numerator for f in features if f.stride is not None))
    result = _infer_at_multiple(grids_at, features, period, 1, known)
    return None if isinstance(result, RoundingMismatch) else result


def _infer_at_multiple(
    grids_at: GridFunction, features: Features, period: int, multiple: int, known: int
) -> tuple[Features, SizeConstraint] | RoundingMismatch:
    """Return the same for one multiple, or the first size that contradicts the others.

    `c` cells of `n` pixels leave offsets above `n - (c + 1) * stride` and up to `n - c * stride`. Every `period` pixels
    add whole cells to all levels.
    """
    above: list[float | Fraction] = [-inf] * len(features)
    upto: list[float | Fraction] = [inf] * len(features)
    for height, width in _iter_sizes(period, multiple, known):
        grids = grids_at(height, width)
        if grids is None:
            return RoundingMismatch(height, width)
        for level, (feature, grid) in enumerate(zip(features, grids, strict=True)):
            assert feature.stride is not None
            for side, cells in zip((height, width), grid, strict=True):
                above[level] = max(above[level], side - (cells + 1) * feature.stride)
                upto[level] = min(upto[level], side - cells * feature.stride)
            if above[level] >= upto[level] or 0 in grid:
                return RoundingMismatch(height, width, level, grid)
    bounds = zip(features, above, upto, strict=True)
    rounded = tuple(_set_offset(f, multiple, Fraction(low), Fraction(high)) for f, low, high in bounds)
    return rounded, SizeConstraint(multiple=multiple, least=_find_min_side(grids_at, rounded, multiple, known))


def _iter_sizes(period: int, multiple: int, known: int) -> Iterator[tuple[int, int]]:
    """Yield two squares, where most networks that do not round raise, and then each side with every remainder."""
    yield known, known
    yield known + multiple, known + multiple
    for steps in range(0, period, multiple):
        yield known + steps, known + period - multiple - steps


def _set_offset(feature: Feature, multiple: int, above: Fraction, upto: Fraction) -> Feature:
    """Return the feature with the simplest of the offsets above `above` and up to `upto`, which give equal cells."""
    stride = feature.stride
    assert stride is not None
    if (multiple / stride).denominator == 1:
        return evolve(feature, rounding="exact", offset=upto)
    if above < 0 <= upto:
        return evolve(feature, rounding="floor", offset=0)
    if above < Fraction(1 - stride.numerator, stride.denominator) <= upto:
        return evolve(feature, rounding="ceil", offset=0)
    return evolve(feature, rounding="floor", offset=upto)


def _find_min_side(grids_at: GridFunction, features: Features, multiple: int, known: int) -> int:
    """Return the smallest multiple from which on the network runs and has these levels."""

    def is_consistent(count: int) -> bool:
        side = count * multiple
        grids = grids_at(side, side)
        expected = tuple((f.cells(side), f.cells(side)) for f in features)
        return grids == expected and all(0 not in grid for grid in expected)

    return multiple * (1 + bisect_left(range(1, known // multiple), x=True, key=is_consistent))
