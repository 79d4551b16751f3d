"""An image as its file holds it: bands of numbers, and what among them is no measurement."""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from composer.commands.terminal import UsageError

Array = NDArray[Any]

NO_DATA_VALUE = -9999
"""What satellite products put where they have no data, whether or not the file says so."""

MAX_IMAGE_BYTES = 2**32
"""What an image may come to: a tile of Sentinel-2 in all its bands has three quarters of it."""


@frozen(eq=False)
class Raster:
    """An image as its file holds it.

    `values` is (band, height, width), or (band, frame, height, width), in the file's own type of numbers. `missing`
    marks what is no measurement: no data, or not finite. `remarks` say what was done on the way. `white` is the largest
    value where the file format defines one beyond 8 bits.
    """

    file: str
    values: Array
    missing: NDArray[np.bool_]
    remarks: tuple[str, ...] = ()
    white: int | None = None


def build_raster(
    file: str,
    values: Array,
    remarks: tuple[str, ...] = (),
    absent: NDArray[np.bool_] | None = None,
    white: int | None = None,
) -> Raster:
    """The image that `values` are; `absent` marks those that the file says are no data.

    Raises UsageError for what is no number, and for no values at all.
    """
    if values.dtype.kind not in "buif" or values.size == 0:
        raise UsageError(
            f"{file}: an image holds numbers (this holds {values.dtype}, shape {format_array_shape(values.shape)})."
        )
    missing = np.zeros(values.shape, bool) if values.dtype.kind != "f" else ~np.isfinite(values)
    if absent is not None:
        missing |= absent
    if values.dtype.kind in "if" and values.dtype.itemsize > 1:
        missing |= values == NO_DATA_VALUE
    return Raster(file, values, missing, remarks, white)


def apply_orientation(values: Array, orientation: int) -> Array:
    """Turn values (height, width, …) as an EXIF orientation from 1 to 8 asks for; another number changes nothing."""
    if orientation not in range(2, 9):
        return values
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    rows, columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return values[:: -1 if rows else 1, :: -1 if columns else 1]


def check_size(file: str, size: int) -> None:
    """Refuse an image before it is read that would fill gigabytes: a model takes many times as many for it."""
    if size > MAX_IMAGE_BYTES:
        raise UsageError(
            f"{file}: an image has at most {MAX_IMAGE_BYTES / 2**30:g} GiB (this has {size / 2**30:,.1f}); crop it."
        )


def format_array_shape(shape: tuple[int, ...]) -> str:
    """`3 × 48 × 64`."""
    return " × ".join(map(str, shape)) or "one number"
