"""Read images and rasters, and prepare them as inputs of a model: bands, normalisation, size."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from attrs import frozen
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from composer.bands import RGB, find_band
from composer.cli.bands import Bands, Raster, select_bands, select_preview_bands, split_by_input
from composer.cli.terminal import UsageError, check_file
from composer.graph import Shared
from composer.inference import TypedGraph
from composer.layouts import format_count
from composer.parts import EncoderInfo

Array = NDArray[Any]
Masked = np.ma.MaskedArray[Any, Any]

NO_DATA_VALUE = -9999
"""The value of satellite products for pixels without data, which few files declare."""

NO_DATA_LEVEL = 205
"""The grey of pixels without data."""

MAX_IMAGE_BYTES = 2**32
"""Bytes of an image in memory; all bands of a Sentinel-2 tile take three quarters."""

MAX_PAGES = 256
"""Pages of a TIFF that are read as its bands: to open one, GDAL walks over all before it."""

DRIVERS = {
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "JPEG": (b"\xff\xd8\xff",),
    "JP2OpenJPEG": (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    "PNM": (b"P5", b"P6"),
    "GTiff": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}
"""The drivers of GDAL, and the first bytes of their files. Left to choose, GDAL follows files that name others."""

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


def read_raster(file: str, channels: int | None, frames: int | None = None) -> Raster:
    """Read an image for a model input of `channels` bands, and of `frames` where it has several.

    `channels` is None for any number of bands, from which some will be picked. GDAL reads pictures and TIFFs.
    Photographs are turned upright, palettes are resolved, and transparent pixels are missing, unless alpha is one of
    the `channels` bands or of those to pick from. The bands of a `.npy` array are its first or last axis: the one of
    size `channels`, or else the shorter one. An array with frames is (frames, bands, height, width). Raises UsageError
    for everything else.
    """
    check_file(file)
    is_array = Path(file).suffix.lower() == ".npy"
    if not Path(file).stat().st_size:
        raise UsageError(f"{file}: the file is empty.")
    if frames is not None and not is_array:
        count = format_count(frames, "frame")
        raise UsageError(f"{file}: an image of {count} is read from a .npy array (frames, bands, height, width).")
    try:
        with warnings.catch_warnings(action="ignore"):
            return _read_array(file, channels, frames) if is_array else _read_picture(file, channels)
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
        limit, found = MAX_IMAGE_BYTES / 2**30, size / 2**30
        raise UsageError(f"{file}: an image has at most {limit:g} GiB (this has {found:,.1f}); crop it.")


def _build_raster(file: str, values: Array, remarks: Sequence[str] = (), bands: Sequence[str | None] = ()) -> Raster:
    """Build the raster of bands, masked or not. Raises UsageError for empty arrays and for other types."""
    if values.dtype.kind not in "buif" or values.size == 0:
        shape = _format_array_shape(values.shape)
        raise UsageError(f"{file}: an image holds numbers (this holds {values.dtype}, shape {shape}).")
    masked = np.ma.masked_invalid(values, copy=False)
    return Raster(file, np.ma.masked_where(masked.data == NO_DATA_VALUE, masked, copy=False), remarks, bands)


def _read_array(file: str, channels: int | None, frames: int | None) -> Raster:
    # Mapped first, so that the size in the header is checked against the file.
    values = np.load(file, mmap_mode="r", allow_pickle=False)
    _check_size(file, values.nbytes)
    values, shape = np.array(values), _format_array_shape(values.shape)
    if frames is not None:
        if values.ndim != 4 or len(values) != frames:
            expected = f"{format_count(frames, 'frame')}, as an array ({frames}, bands, height, width)"
            raise UsageError(f"{file}: the model takes {expected} (this is {shape}).")
        return _build_raster(file, values.swapaxes(0, 1))
    if values.ndim == 2:
        return _build_raster(file, values[None])
    if values.ndim != 3:
        raise UsageError(f"{file}: an image is an array (bands, height, width) (this is {shape}).")
    first, _, last = values.shape
    # Where neither has the right size, the shorter axis is the likelier one for a wrong number of bands.
    count = channels if channels in (first, last) else min(first, last)
    if first == last == count:
        raise UsageError(
            f"{file}: both the first and the last axis of {shape} could be the bands; "
            f"crop or pad the image so that only one can."
        )
    return _build_raster(file, values if first == count else np.moveaxis(values, -1, 0))


def _format_array_shape(shape: tuple[int, ...]) -> str:
    """`3 × 48 × 64`."""
    return " × ".join(map(str, shape)) or "one number"


def _read_picture(file: str, channels: int | None) -> Raster:
    path = Path(file).resolve()
    with path.open("rb") as stream:
        start = stream.read(16)
    driver = next((driver for driver, beginnings in DRIVERS.items() if start.startswith(beginnings)), None)
    if driver is None:
        raise UsageError(f"{file}: not an image that can be read here; use PNG, JPEG, TIFF or .npy.")
    with rasterio.Env(**GDAL_OPTIONS), rasterio.open(path, driver=driver) as source:
        size = source.height * source.width * sum(np.dtype(name).itemsize for name in source.dtypes)
        # rasterio lists GTIFF_DIR:1:PATH, GTIFF_DIR:2:PATH and so on in no order.
        pages = sorted(source.subdatasets, key=lambda name: int(name.split(":")[1])) if driver == "GTiff" else []
        pages = pages if source.count == 1 and 1 < len(pages) <= MAX_PAGES else []
        _check_size(file, size * max(len(pages), 1))
        if driver == "PNM" and path.stat().st_size < size:
            raise UsageError(f"{file}: cannot be read as an image (the file is shorter than its header says).")
        return _read_pages(file, source, pages) or _read_bands(file, source, channels)


def _read_pages(file: str, source: Any, pages: Sequence[str]) -> Raster | None:
    """Read the pages of a TIFF as its bands, as tifffile writes arrays; None where there are none or they differ."""
    bands = []
    for name in pages:
        with rasterio.open(name, driver="GTiff") as page:
            if (page.count, page.shape, page.dtypes) != (1, source.shape, source.dtypes):
                return None
            bands.append(page.read(1, masked=True))
    return _build_raster(file, np.ma.stack(bands), [f"its {len(pages)} pages are the bands"]) if bands else None


def _read_bands(file: str, source: Any, channels: int | None) -> Raster:
    """Read the bands of an open file, without alpha unless it is one of `channels` or of those to pick from."""
    colours = source.colorinterp
    tags, bits = source.tags(ns="IMAGE_STRUCTURE"), int(source.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", "8"))
    if source.driver == "GTiff" and (ColorInterp.cyan in colours or tags.get("SOURCE_COLOR_SPACE") == "CMYK"):
        raise UsageError(f"{file}: bands in the colour space CMYK cannot be read from this TIFF; save it as RGB.")
    remarks = [f"the first of its {len(source.subdatasets)} images"] if len(source.subdatasets) > 1 else []
    names = [find_band(description or "") for description in source.descriptions]
    alpha = colours.index(ColorInterp.alpha) if ColorInterp.alpha in colours else None
    # GDAL takes the fourth band of a TIFF for alpha, also where it is near infrared.
    if alpha is not None and (channels in (source.count, None) or names[alpha]):
        remarks += [] if names[alpha] else [f"alpha counts as band {alpha + 1}"]
        values = np.ma.array(source.read())
    else:
        indexes = [i for i in source.indexes if colours[i - 1] is not ColorInterp.alpha]
        names = [names[i - 1] for i in indexes]
        values = source.read(indexes, masked=True)
    if colours[0] is ColorInterp.palette:
        values = _resolve_palette(values[0], source.colormap(1))
    elif bits < 8:
        values = values * np.uint8(255 // (2**bits - 1))
    elif tags.get("MINISWHITE") == "YES" and values.dtype.kind == "u":
        values = np.iinfo(values.dtype).max - values
    elif source.driver == "PNG" and values.dtype == np.uint16 and len(values) > 1:
        values = values / np.float32(65535)
        remarks.append("16 bits scaled to 0..1")
    orientation = int(source.tags().get("EXIF_Orientation", 1))
    if orientation != 1:
        values = _apply_orientation(values, orientation)
        remarks.append("turned upright, as its EXIF orientation says")
    if source.driver in ("PNG", "JPEG", "PNM") and len(values) >= len(RGB):
        names = [*RGB, None][: len(values)]
    return _build_raster(file, values, remarks, names)


def _resolve_palette(indices: Masked, colours: dict[int, tuple[int, ...]]) -> Masked:
    """Return the colours of a palette (3, height, width), or (1, …) for shades of grey; transparent ones are masked."""
    table = np.zeros((np.iinfo(indices.dtype).max + 1, 4), np.uint8)
    table[list(colours)] = list(colours.values())
    count = 1 if (table[:, :1] == table[:, 1:3]).all() else 3
    *bands, alpha = np.moveaxis(table[indices.data], -1, 0)
    return np.ma.array(bands[:count], mask=[np.ma.getmaskarray(indices) | (alpha == 0)] * count)


def _apply_orientation(values: Masked, orientation: int) -> Masked:
    """Turn values (band, height, width) by an EXIF orientation from 1 to 8."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(1, 2)
    if orientation in (3, 4, 7, 8):
        values = values[:, ::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, :, ::-1]
    return values


@frozen(eq=False)
class PreparedInput:
    """An image as an input of the model, without the batch, and as RGB `picture` (height, width, 3) to draw."""

    name: str
    file: str
    values: Array
    picture: NDArray[np.uint8]
    remarks: tuple[str, ...]

    def __str__(self) -> str:
        """`image: photo.jpg, 480 high, 640 wide; bands 4,3,2 of 10`."""
        height, width = self.picture.shape[:2]
        return "; ".join([f"{self.name}: {self.file}, {height} high, {width} wide", *self.remarks])


def prepare_inputs(
    typed: TypedGraph, images: Sequence[str], bands: Sequence[str] = (), show_bands: Sequence[str] = ()
) -> list[PreparedInput]:
    """Read the inputs of a graph from image files.

    Each of `images`, `bands` and `show_bands` is a value, or NAME=VALUE where the graph has several inputs. Raises
    UsageError for images and bands that do not fit the graph.
    """
    inputs = dict(typed.graph.inputs)
    files = split_by_input(images, inputs, "--image")
    if absent := [name for name in inputs if name not in files]:
        raise UsageError(f"--image: there is none for {', '.join(absent)}; add --image {absent[0]}=FILE.")
    used, drawn = split_by_input(bands, inputs, "--bands"), split_by_input(show_bands, inputs, "--show-bands")
    rasters = {
        name: read_raster(files[name], None if name in used else image.channels, image.frames)
        for name, image in inputs.items()
    }
    check_sizes(typed, rasters)
    prepared = []
    for name, raster in rasters.items():
        chosen, remark = select_bands(raster, name, inputs[name], used.get(name))
        shown, preview_remark = select_preview_bands(raster, chosen, inputs[name].bands, drawn.get(name))
        values = raster.values[np.subtract(chosen, 1)]
        numbers, method = normalize_bands(values, find_encoder_info(typed, name), f"{raster.file}: {name}")
        gaps = describe_missing_pixels(np.ma.getmaskarray(values))
        remarks = tuple(filter(None, (*raster.remarks, remark, method, gaps, preview_remark)))
        prepared.append(PreparedInput(name, raster.file, numbers, render_preview(raster, shown), remarks))
    return prepared


def check_sizes(typed: TypedGraph, rasters: Mapping[str, Raster]) -> None:
    """Raise UsageError for images that do not cover the same reference pixels, or that are too large for the graph."""
    (first, image), *_ = typed.graph.inputs
    rows, columns = rasters[first].values.shape[-2:]
    height, width = rows * image.stride, columns * image.stride
    if height.denominator != 1 or width.denominator != 1:
        raise UsageError(
            f"{rasters[first].file}: {first} has stride {image.stride}, so its sides must be multiples of "
            f"{image.stride.denominator} (this has {rows} × {columns}). Crop or resize the image."
        )
    for name, other in typed.graph.inputs:
        sides = rasters[name].values.shape[-2:]
        expected = (float(height / other.stride), float(width / other.stride))
        if sides != expected:
            raise UsageError(
                f"{rasters[name].file}: {name} must have {expected[0]:g} × {expected[1]:g} pixels (height × width), "
                f"to cover what {first} covers (this has {sides[0]} × {sides[1]})."
            )
    try:
        typed.shape(typed.ends[0], int(height), int(width))
    except ValueError as error:
        raise UsageError(f"{rasters[first].file}: {error}") from error


def find_encoder_info(typed: TypedGraph, name: str) -> tuple[str, EncoderInfo] | None:
    """Find the first encoder that takes input `name` and has statistics of pretrained weights; return it by name."""
    for node in typed.order:
        owner = node.part.node if isinstance(node.part, Shared) else node.name
        info = typed.encoder_infos.get(owner)
        if info is not None and info.mean and node.sources == (name,):
            return owner, info
    return None


def describe_missing_pixels(missing: NDArray[np.bool_]) -> str | None:
    """Return a remark on the pixels of which any band is missing; None where there are none."""
    absent = missing.any(axis=0)
    count = int(absent.sum())
    action = "holds no data, and gets its" if count == 1 else "hold no data, and get their"
    return f"{count} of {format_count(absent.size, 'pixel')} {action} band's mean" if count else None


def normalize_bands(values: Masked, encoder: tuple[str, EncoderInfo] | None, name: str) -> tuple[Array, str]:
    """Return bands (band, …) as normalised float32, and a remark on how.

    Three bands in 0..255 or 0..1 are normalised by the mean and deviation that the encoder's pretrained weights expect.
    Otherwise each band gets zero mean and unit deviation over the image. Missing pixels get their band's mean. Raises
    UsageError for a band without data, and for numbers too large to average.
    """
    scale, published = infer_full_scale(values), None
    # The statistics are those of RGB, in the order of the image's bands.
    order = [RGB.index(band) for band in (encoder[1].bands if encoder else ()) or RGB if band in RGB]
    remark = "each band to zero mean and unit deviation over this image"
    if encoder is not None and scale is not None and len(values) == len(encoder[1].mean) == len(order) == 3:
        published = np.multiply([encoder[1].mean, encoder[1].std], scale)[:, order]
        means, deviations = (", ".join(f"{number:g}" for number in side) for side in published / scale)
        remark = f"values 0 to {scale}, normalised for {encoder[0]}: mean {means}, deviation {deviations}"
    result = np.empty(values.shape, np.float32)
    for index, band in enumerate(values):
        present = band.compressed().astype(np.float64)
        if not present.size:
            raise UsageError(f"{name}: band {index + 1} of the input holds no data at all.")
        with np.errstate(over="ignore"):
            mean, deviation = present.mean(), present.std() or 1.0
        if not np.isfinite([mean, deviation]).all():
            largest = present[np.abs(present).argmax()]
            raise UsageError(f"{name}: band {index + 1} holds numbers too large to average, such as {largest:g}.")
        numbers = band.astype(np.float64).filled(mean)
        center, spread = (mean, deviation) if published is None else published[:, index]
        result[index] = (numbers - center) / spread
    return result, remark


def infer_full_scale(values: Masked) -> int | None:
    """Return the largest brightness, 255 or 1, that the numbers fit; None for numbers on another scale."""
    if values.dtype == np.uint8:
        return 255
    present = values.compressed()
    if not present.size or present.min() < 0 or present.max() > 255:
        return None
    return 1 if present.max() <= 1 else 255


def render_preview(raster: Raster, bands: Bands) -> NDArray[np.uint8]:
    """Convert one band or three to RGB (height, width, 3); of several frames, the first.

    Numbers in 0..255 or 0..1 are drawn unchanged, and other bands from two deviations below their mean to two above.
    Pixels without data are grey.
    """
    values: Any = raster.values[np.subtract(bands, 1)]
    values = values[:, 0] if values.ndim == 4 else values
    scale, values = infer_full_scale(values), values.astype(np.float64)
    mean, deviation = (measure(axis=(1, 2), keepdims=True) for measure in (values.mean, values.std))
    middle, width = (scale / 2, scale) if scale else (mean, 4 * deviation)
    shares = (values - middle) / np.where(width, width, 1) + 0.5
    levels = np.repeat(255 * shares.filled(0.5).clip(0, 1), 3 // len(bands), axis=0).round().astype(np.uint8)
    levels[:, np.ma.getmaskarray(values).any(axis=0)] = NO_DATA_LEVEL
    return np.moveaxis(levels, 0, -1)
