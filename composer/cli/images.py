"""Read images and rasters."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from attrs import frozen
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from composer.cli.terminal import UsageError, check_file
from composer.layouts import format_count

Array = NDArray[Any]

NO_DATA_VALUE = -9999
"""The value of satellite products for pixels without data, which few files declare."""

MAX_IMAGE_BYTES = 2**32
"""Bytes of an image in memory; all bands of a Sentinel-2 tile take three quarters."""

MAX_PAGES = 256
"""Pages of a TIFF that are read as its bands."""

DRIVERS = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"\0\0\0\x0cjP  ": "JP2OpenJPEG",
    b"\xff\x4f\xff\x51": "JP2OpenJPEG",
    b"P5": "PNM",
    b"P6": "PNM",
    b"II*\0": "GTiff",
    b"MM\0*": "GTiff",
    b"II+\0": "GTiff",
    b"MM\0+": "GTiff",
}
"""The first bytes of a file, and the driver of GDAL for it. Left to choose, GDAL follows files that name others."""

GDAL_OPTIONS = {
    # No file beside the image is looked for, read or written.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    # Half a file is an error, not an image whose rest is black.
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "YES",
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",
}

# Without a handler, Python would print what GDAL logs; its errors are raised as well.
logging.getLogger("rasterio").addHandler(logging.NullHandler())


@frozen(eq=False)
class Raster:
    """An image as its file holds it.

    `values` is (band, height, width), or (band, frame, height, width), in the type of the file. `missing` marks values
    that are not finite, transparent, or declared as no data. `remarks` describe conversions. `white` is the largest
    value, where the file format defines one beyond 8 bits.
    """

    file: str
    values: Array
    missing: NDArray[np.bool_]
    remarks: tuple[str, ...] = ()
    white: int | None = None


def read_raster(file: str, channels: int, frames: int | None = None, *, picked: bool = False) -> Raster:
    """Read an image for a model input of `channels` bands, and of `frames` where it has several.

    GDAL reads pictures and TIFFs. Photographs are turned upright, palettes are resolved, and transparent pixels are
    missing, unless alpha is one of the `channels` bands or the bands are `picked`. The bands of a `.npy` array are its
    first or last axis: the one of size `channels`, or the shorter one if bands are `picked` from it. An array with
    frames is (frames, bands, height, width). Raises UsageError for everything else.
    """
    check_file(file)
    if not Path(file).stat().st_size:
        raise UsageError(f"{file}: the file is empty.")
    suffix = Path(file).suffix.lower()
    if frames is not None and suffix != ".npy":
        raise UsageError(
            f"{file}: an image of {format_count(frames, 'frame')} is read from a .npy array "
            f"(frames, bands, height, width)."
        )
    try:
        with warnings.catch_warnings(action="ignore"):
            if suffix == ".npy":
                return _read_array(file, channels, frames, picked=picked)
            return _read_picture(file, channels, picked=picked)
    except UsageError:
        raise
    except MemoryError:
        raise UsageError(f"{file}: out of memory for an image of this size; crop it.") from None
    except Exception as error:  # decoders raise almost any error for a damaged file
        # GDAL's own message is in the cause.
        message = getattr(error.__cause__, "errmsg", None) or str(error) or type(error).__name__
        reason = message.split("\n")[0].rstrip(".")
        raise UsageError(f"{file}: cannot be read as an image ({reason}).") from error


def _check_size(file: str, size: int) -> None:
    if size > MAX_IMAGE_BYTES:
        raise UsageError(
            f"{file}: an image has at most {MAX_IMAGE_BYTES / 2**30:g} GiB (this has {size / 2**30:,.1f}); crop it."
        )


def _build_raster(
    file: str, values: Array, remarks: list[str], absent: Array | None = None, white: int | None = None
) -> Raster:
    """Build the raster of bands; `absent` marks no data. Raises UsageError for empty arrays and for other types."""
    if values.dtype.kind not in "buif" or values.size == 0:
        shape = _format_array_shape(values.shape)
        raise UsageError(f"{file}: an image holds numbers (this holds {values.dtype}, shape {shape}).")
    missing = np.zeros(values.shape, bool) if absent is None else absent
    if values.dtype.kind == "f":
        missing |= ~np.isfinite(values)
    if values.dtype.kind in "if" and values.dtype.itemsize > 1:
        missing |= values == NO_DATA_VALUE
    return Raster(file, values, missing, tuple(remarks), white)


def _read_array(file: str, channels: int, frames: int | None, *, picked: bool) -> Raster:
    # Mapped first, so that the size in the header is checked against the file.
    try:
        values = np.load(file, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        if "Python objects" not in str(error):
            raise
        raise UsageError(f"{file}: an image holds numbers (this holds objects of Python).") from None
    _check_size(file, values.nbytes)
    values = np.array(values)
    shape = _format_array_shape(values.shape)
    if frames is not None:
        if values.ndim != 4 or values.shape[0] != frames:
            expected = f"{format_count(frames, 'frame')}, as an array ({frames}, bands, height, width)"
            raise UsageError(f"{file}: the model takes {expected} (this is {shape}).")
        return _build_raster(file, np.moveaxis(values, 1, 0), [])
    if values.ndim == 2:
        return _build_raster(file, values[None], [])
    if values.ndim != 3:
        raise UsageError(f"{file}: an image is an array (bands, height, width) (this is {shape}).")
    first, _, last = values.shape
    fits = (first < last, last < first) if picked else (first == channels, last == channels)
    if fits == (True, True) or (picked and first == last):
        raise UsageError(
            f"{file}: both the first and the last axis of {shape} could be the bands; "
            f"crop or pad the image so that only one can."
        )
    # Where neither fits, the shorter axis is the likelier one for a wrong number of bands.
    bands_last = fits[1] if any(fits) else last < first
    return _build_raster(file, np.moveaxis(values, -1, 0) if bands_last else values, [])


def _format_array_shape(shape: tuple[int, ...]) -> str:
    """`3 × 48 × 64`."""
    return " × ".join(map(str, shape)) or "one number"


def _read_picture(file: str, channels: int, *, picked: bool) -> Raster:
    path = Path(file).resolve()
    with (
        rasterio.Env(**GDAL_OPTIONS),
        rasterio.open(path, driver=_find_driver(file, path)) as source,
    ):
        _check_size(file, _count_bytes(source))
        if source.driver == "PNM" and path.stat().st_size < _count_bytes(source):
            raise UsageError(f"{file}: cannot be read as an image (the file is shorter than its header says).")
        pages = _read_pages(file, source) if source.count == 1 and len(source.subdatasets) > 1 else None
        return pages or _read_bands(file, source, channels, picked=picked)


def _find_driver(file: str, path: Path) -> str:
    """Return the driver of GDAL for a file, from its first bytes."""
    if path.as_posix().startswith("/vsi"):
        raise UsageError(f"{file}: GDAL takes a path that begins with /vsi for something else; move the file.")
    with path.open("rb") as stream:
        start = stream.read(max(map(len, DRIVERS)))
    for first, driver in DRIVERS.items():
        if start.startswith(first):
            return driver
    raise UsageError(f"{file}: not an image that can be read here; use PNG, JPEG, TIFF or .npy.")


def _count_bytes(source: Any) -> int:
    return sum(source.height * source.width * np.dtype(name).itemsize for name in source.dtypes)


def _read_pages(file: str, source: Any) -> Raster | None:
    """Read the pages of a TIFF as its bands, as tifffile writes arrays; None where they differ."""
    names = source.subdatasets
    if len(names) > MAX_PAGES:
        return None
    _check_size(file, _count_bytes(source) * len(names))
    bands, masks = [], []
    for name in names:
        with rasterio.open(name, driver="GTiff") as page:
            if (page.count, page.shape, page.dtypes) != (1, source.shape, source.dtypes):
                return None
            bands.append(page.read(1))
            masks.append(page.read_masks(1) == 0)
    return _build_raster(file, np.stack(bands), [f"its {len(names)} pages are the bands"], np.stack(masks))


def _read_bands(file: str, source: Any, channels: int, *, picked: bool) -> Raster:
    """Read the bands of an open file, without alpha unless it is one of `channels`, or bands are `picked`."""
    tags, bits = source.tags(ns="IMAGE_STRUCTURE"), source.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", "8")
    if source.driver == "GTiff" and tags.get("SOURCE_COLOR_SPACE") == "CMYK":
        raise UsageError(f"{file}: bands in the colour space CMYK cannot be read from this TIFF; save it as RGB.")
    remarks = [f"the first of its {len(source.subdatasets)} images"] if len(source.subdatasets) > 1 else []
    colours = source.colorinterp
    has_alpha_band = picked or source.count == channels
    indexes = [i for i in source.indexes if has_alpha_band or colours[i - 1] is not ColorInterp.alpha]
    values, missing = source.read(indexes), source.read_masks(indexes) == 0
    if has_alpha_band and ColorInterp.alpha in colours:
        missing[:] = False
        remarks.append(f"alpha counts as band {colours.index(ColorInterp.alpha) + 1}")
    if colours[0] is ColorInterp.palette:
        values, transparent = _resolve_palette(values[0], source.colormap(1))
        missing = np.broadcast_to(missing | transparent, values.shape)
    elif int(bits) < 8:
        values = values * np.uint8(255 // (2 ** int(bits) - 1))
    elif tags.get("MINISWHITE") == "YES" and values.dtype.kind == "u":
        values = np.iinfo(values.dtype).max - values
    orientation = int(source.tags().get("EXIF_Orientation", 1))
    if orientation != 1:
        values, missing = _apply_orientation(values, orientation), _apply_orientation(missing, orientation)
        remarks.append("turned upright, as its EXIF orientation says")
    is_deep_picture = source.driver == "PNG" and values.dtype == np.uint16 and len(values) > 1
    return _build_raster(file, values, remarks, missing, 65535 if is_deep_picture else None)


def _resolve_palette(indices: Array, colours: dict[int, tuple[int, ...]]) -> tuple[Array, Array]:
    """Return the colours of a palette (3, height, width), or (1, …) for shades of grey, and what is transparent."""
    table = np.zeros((np.iinfo(indices.dtype).max + 1, 4), np.uint8)
    table[list(colours)] = list(colours.values())
    is_grey = (table[:, :1] == table[:, 1:3]).all()
    values = np.moveaxis(table[indices], -1, 0)
    return values[: 1 if is_grey else 3], values[3] == 0


def _apply_orientation(values: Array, orientation: int) -> Array:
    """Turn values (band, height, width) by an EXIF orientation from 1 to 8."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(1, 2)
    if orientation in (3, 4, 7, 8):
        values = values[:, ::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, :, ::-1]
    return values
