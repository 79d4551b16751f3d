"""Image sizes at which it is seen whether a plain neck takes what it is fed, or takes one axis for another."""

from __future__ import annotations

from composer.contracts.rules import whole
from composer.feature import Feature, Features
from composer.sizes import Sizes

Size = tuple[int, int]

MOST_TRIES = 100


def probe_sizes(features: Features, sizes: Sizes) -> tuple[Size, Size]:
    """Two sizes, one upright and one not, at which every grid is whole, and no side of a grid and no number of tokens
    is a number of channels: what runs at both does not do so by coincidence. From three cells on, as few as can be.
    """
    step = whole(*features).multiple
    fewest = max(3, -(-sizes.least // step))
    for first in range(fewest, fewest + MOST_TRIES):
        tried = ((first * step, (first + 2) * step), ((first + 2) * step, first * step))
        if not _meet(features, tried):
            return tried
    return tried


def _meet(features: Features, sizes: tuple[Size, Size]) -> bool:
    channels = {feature.channels for feature in features}
    return any(number in channels for feature in features for size in sizes for number in _numbers(feature, size))


def _numbers(feature: Feature, size: Size) -> set[int]:
    """Every number of cells that stands on an axis of the feature's tensor."""
    if feature.stride is None:
        return set()
    shape = dict(zip(feature.axes.split(), feature.shape(2, *size), strict=True))
    return {count for axis, count in shape.items() if axis in "hwn"} | {feature.cells(side) for side in size}
