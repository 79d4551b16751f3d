"""Finding out by trial how a network rounds at image sizes that its strides do not divide. No torch here.

Along one side, a convolution or a pooling of stride `s` makes `floor((n + a) / s)` cells of `n`, where `a` is a whole
number that its kernel, dilation and padding come to. Two of them, one after the other, make
`floor((floor((n + a) / s) + b) / t) = floor((n + a + b * s) / (s * t))`, and so does a chain of any length: one `a`
says all. It rounds down with `a = 0` and up with `a = S - 1`, where `S` is the stride of the chain. At any `S` sizes
in a row, the cells of a chain add up to another sum for each `a` (Hermite's identity), so a rounding that is right at
all of those is right at every size.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from attrs import evolve, frozen

from composer.adapters.probing import GridsAt
from composer.feature import Feature, Features, Rounding
from composer.sizes import Sizes


@frozen
class Misfit:
    """An image of (height, width) that a network does not take, or at which the grid of a level is not as it rounds."""

    height: int
    width: int
    level: int | None = None
    grid: tuple[int, int] | None = None


def rounded(grids_at: GridsAt, features: Features, sizes: Sizes, known: int) -> tuple[Features, Sizes] | Misfit:
    """The levels of a network with their true roundings, and all the image sizes at which they have those.

    At `sizes` the levels are exact, and `known` is such a side. The sizes that are found are of the smallest multiple
    at which each level rounds in one way: 1 in most networks, and the patch where what follows a patch embedding
    rounds up. Where none is smaller than that of `sizes`, the misfit that stands in the way of every size.
    """
    misfits = []
    for multiple in (one for one in range(1, sizes.multiple) if sizes.multiple % one == 0):
        found = _at_multiples(grids_at, features, sizes.multiple, multiple, known)
        if not isinstance(found, Misfit):
            return found
        misfits.append(found)
    return misfits[0] if misfits else (features, sizes)


def _at_multiples(
    grids_at: GridsAt, features: Features, period: int, multiple: int, known: int
) -> tuple[Features, Sizes] | Misfit:
    """The same, of one multiple; the levels are exact at multiples of `period`."""
    told = _told_by_one(grids_at, features, multiple, known)
    if isinstance(told, Misfit):
        return told

    def fits(count: int) -> bool:
        return _misfit(grids_at, told, count * multiple, count * multiple) is None

    least = multiple * (1 + bisect_left(range(1, known // multiple), x=True, key=fits))
    for height, width in _window(least, known, period, multiple):
        misfit = _misfit(grids_at, told, height, width)
        if misfit is not None:
            return misfit
    return told, Sizes(multiple=multiple, least=least)


def _told_by_one(grids_at: GridsAt, features: Features, multiple: int, known: int) -> Features | Misfit:
    """The only roundings that the levels can have, told by the size that comes next after a whole one."""
    side = known + multiple
    grids = grids_at(side, side)
    if grids is None:
        return Misfit(side, side)
    told = []
    for level, (feature, grid) in enumerate(zip(features, grids, strict=True)):
        assert feature.stride is not None
        ways: tuple[Rounding, ...] = ("exact",) if (multiple / feature.stride).denominator == 1 else ("floor", "ceil")
        fitting = [f for f in (evolve(feature, rounding=way) for way in ways) if grid == _grid(f, side, side)]
        if not fitting:
            return Misfit(side, side, level, grid)
        told.append(fitting[0])
    return tuple(told)


def _window(least: int, known: int, period: int, multiple: int) -> Iterator[tuple[int, int]]:
    """Images whose one side runs up from the least, through a whole period, and whose other side runs down to `known`.

    So each side has every remainder, and is small and large, and hardly an image is square.
    """
    for steps in range(0, period, multiple):
        yield least + steps, known + period - multiple - steps


def _misfit(grids_at: GridsAt, told: Features, height: int, width: int) -> Misfit | None:
    grids = grids_at(height, width)
    if grids is None:
        return Misfit(height, width)
    for level, (feature, grid) in enumerate(zip(told, grids, strict=True)):
        if grid != _grid(feature, height, width) or 0 in grid:
            return Misfit(height, width, level, grid)
    return None


def _grid(feature: Feature, height: int, width: int) -> tuple[int, int]:
    return feature.cells(height), feature.cells(width)
