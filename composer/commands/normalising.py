"""The numbers that a network is fed: as its published weights expect them, or each band on its own scale."""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from composer.commands.rasters import Array
from composer.commands.terminal import UsageError


@frozen
class PretrainedStats:
    """What the published weights of an encoder expect of red, green and blue in 0..1."""

    encoder: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def normalize_bands(
    values: Array, missing: Array, published: PretrainedStats | None, name: str, white: int | None = None
) -> tuple[Array, str]:
    """Bands (band, …) as float32, and how that was done, in words.

    With `published`, three bands in 0..255, 0..1 or 0..`white` become what those weights expect. Otherwise each band
    gets zero mean and unit deviation over the image. What is missing gets its band's mean, and counts for nothing
    before. Raises UsageError for a band that holds no number at all, or numbers that have no mean.
    """
    highest = white or infer_full_scale(values, missing)
    result = np.empty(values.shape, np.float32)
    as_published = published is not None and len(values) == len(published.mean) == 3 and highest is not None
    for index, (band, absent) in enumerate(zip(values, missing, strict=True)):
        numbers = band.astype(np.float64)
        present = numbers[~absent]
        if not present.size:
            raise UsageError(f"{name}: band {index + 1} of those that the model is fed holds no data at all.")
        with np.errstate(over="ignore"):
            mean, deviation = present.mean(), present.std() or 1.0
        if not (np.isfinite(mean) and np.isfinite(deviation)):
            raise UsageError(
                f"{name}: band {index + 1} holds numbers too large to reckon with, such as {_find_largest(present):g}."
            )
        numbers[absent] = mean
        if as_published:
            assert published is not None
            assert highest is not None
            mean, deviation = published.mean[index] * highest, published.std[index] * highest
        result[index] = (numbers - mean) / deviation
    if not as_published:
        return result, "each band to zero mean and unit deviation over this image"
    assert published is not None
    means, deviations = (", ".join(f"{number:g}" for number in side) for side in (published.mean, published.std))
    return (
        result,
        f"values 0 to {highest}, normalised for {published.encoder}: mean {means}, deviation {deviations}",
    )


def _find_largest(numbers: Array) -> float:
    return float(numbers[np.abs(numbers).argmax()])


def infer_full_scale(values: Array, missing: Array) -> int | None:
    """What the largest brightness is: 255 or 1, as far as the numbers show; None where they are on another scale."""
    if values.dtype == np.uint8:
        return 255
    present = values[~missing]
    if not present.size or present.min() < 0:
        return None
    largest = present.max()
    return 1 if largest <= 1 else 255 if largest <= 255 else None
