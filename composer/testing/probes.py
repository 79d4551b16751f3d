"""Image sizes at which it is seen whether a plain neck takes what it is fed, or takes one axis for another."""

from __future__ import annotations

from composer.contracts.rules import compute_exact_multiple
from composer.feature import Feature, Features
from composer.sizes import SizeConstraint

Size = tuple[int, int]

MAX_SIZE_TRIES = 100


def probe_sizes(features: Features, sizes: SizeConstraint) -> tuple[Size, Size]:
    """Two sizes, one upright and one not, at which every grid is whole, and no side of a grid and no number of tokens
    is a number of channels: what runs at both does not do so by coincidence. From three cells on, as few as can be.
    """
    step = compute_exact_multiple(*features).multiple
    fewest = max(3, -(-sizes.least // step))
    for first in range(fewest, fewest + MAX_SIZE_TRIES):
        tried = ((first * step, (first + 2) * step), ((first + 2) * step, first * step))
        if not _has_coincidence(features, tried):
            return tried
    return tried


def _has_coincidence(features: Features, sizes: tuple[Size, Size]) -> bool:
    channels = {feature.channels for feature in features}
    return any(
        number in channels for feature in features for size in sizes for number in _collect_cell_counts(feature, size)
    )


def _collect_cell_counts(feature: Feature, size: Size) -> set[int]:
    """Every number of cells that stands on an axis of the feature's tensor."""
    if feature.stride is None:
        return set()
    shape = dict(zip(feature.axes.split(), feature.shape(2, *size), strict=True))
    return {count for axis, count in shape.items() if axis in "hwn"} | {feature.cells(side) for side in size}
