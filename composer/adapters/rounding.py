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
from functools import cache
from math import ceil, lcm

from attrs import evolve, frozen

from composer.adapters.probing import GridFunction, Grids
from composer.layouts import Feature, Features, Rounding
from composer.sizes import SizeConstraint


@frozen
class RoundingMismatch:
    """An image of (height, width) that a network rejects, or at which the grid of a level is not as it rounds."""

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
    """The same for one multiple. Every `period` pixels add whole cells to all levels."""
    rounded = _infer_from_next_size(grids_at, features, multiple, known)
    if isinstance(rounded, RoundingMismatch):
        return rounded

    def is_consistent(count: int) -> bool:
        return _find_rounding_mismatch(grids_at, rounded, count * multiple, count * multiple) is None

    least = multiple * (1 + bisect_left(range(1, known // multiple), x=True, key=is_consistent))
    for height, width in _iter_sweep_sizes(least, known, period, multiple):
        mismatch = _find_rounding_mismatch(grids_at, rounded, height, width)
        if mismatch is not None:
            return mismatch
    return rounded, SizeConstraint(multiple=multiple, least=least)


def _infer_from_next_size(
    grids_at: GridFunction, features: Features, multiple: int, known: int
) -> Features | RoundingMismatch:
    """Return the only possible roundings of the levels, from where each gets its next cell after a side of `known`."""

    @cache
    def compute_square_grids(side: int) -> Grids | None:
        return grids_at(side, side)

    here, further = compute_square_grids(known), compute_square_grids(known + multiple)
    if here is None or further is None:
        side = known if here is None else known + multiple
        return RoundingMismatch(side, side)
    rounded = []
    for level, feature in enumerate(features):
        assert feature.stride is not None
        steps = range(multiple, ceil(feature.stride) + multiple, multiple)
        cells = here[level][0]

        def has_more_cells(step: int, level: int = level, cells: int = cells) -> bool:
            grids = compute_square_grids(known + step)
            return grids is not None and grids[level][0] > cells

        more = bisect_left(steps, x=True, key=has_more_cells)
        step = steps[min(more, len(steps) - 1)]
        rounded.append(_build_rounded_feature(feature, known + step - (cells + 1) * feature.stride, multiple))
        for side, grids in ((known, here), (known + multiple, further)):
            if grids[level] != _compute_grid(rounded[-1], side, side):
                return RoundingMismatch(side, side, level, grids[level])
    return tuple(rounded)


def _build_rounded_feature(feature: Feature, offset: Fraction, multiple: int) -> Feature:
    """Return the feature with floor((H - offset) / stride) cells where H is a multiple of `multiple`, simplest first.

    There, each offset of the last `multiple` pixels has as many.
    """
    stride = feature.stride
    assert stride is not None
    if (multiple / stride).denominator == 1:
        return evolve(feature, rounding="exact", offset=offset - multiple + stride)
    up = Fraction(1 - stride.numerator, stride.denominator)
    candidates: tuple[tuple[Rounding, Fraction], ...] = (("floor", Fraction(0)), ("ceil", up))
    for rounding, equivalent in candidates:
        if offset - multiple < equivalent <= offset:
            return evolve(feature, rounding=rounding)
    return evolve(feature, rounding="floor", offset=offset)


def _iter_sweep_sizes(least: int, known: int, period: int, multiple: int) -> Iterator[tuple[int, int]]:
    """Yield images whose one side runs up from the least, through a whole period, and whose other runs down to `known`.

    So each side has every remainder, and is small and large, and hardly an image is square.
    """
    for steps in range(0, period, multiple):
        yield least + steps, known + period - multiple - steps


def _find_rounding_mismatch(
    grids_at: GridFunction, features: Features, height: int, width: int
) -> RoundingMismatch | None:
    grids = grids_at(height, width)
    if grids is None:
        return RoundingMismatch(height, width)
    for level, (feature, grid) in enumerate(zip(features, grids, strict=True)):
        if grid != _compute_grid(feature, height, width) or 0 in grid:
            return RoundingMismatch(height, width, level, grid)
    return None


def _compute_grid(feature: Feature, height: int, width: int) -> tuple[int, int]:
    return feature.cells(height), feature.cells(width)
