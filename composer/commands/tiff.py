"""TIFFs that hold more than a picture does: many bands, many bits, many pixels, no data. tifffile reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from composer.commands.rasters import Array, Raster, apply_orientation, build_raster, check_size
from composer.commands.terminal import UsageError

NODATA_TAG = 42113
"""The tag with which GDAL says which value stands for no data."""

INVERTED_REMARK = "inverted, because its zero is white"

_TIFF_ORIENTATION, _JPEG = 274, 7
_WHITE_IS_ZERO, _PALETTE, _YCBCR = 0, 3, 6
_PLAIN_PHOTOMETRICS = (_WHITE_IS_ZERO, 1, 2, _PALETTE, 5, 34892)
"""Photometric interpretations whose numbers are bands: grey, RGB, palette, inks, raw."""


def has_tiff_suffix(file: str) -> bool:
    """Whether the name ends as those of TIFFs do."""
    return Path(file).suffix.lower() in (".tif", ".tiff")


def read_tiff(file: str) -> Raster:
    """The bands of a TIFF, which knows them. Raises UsageError for what is none, or too large.

    As with Pillow, palettes are resolved, fewer than 8 bits are scaled to 8, and the picture is upright. A value of no
    data is compared with what is stored. Pixels outside of the file's own mask are missing.
    """
    try:
        import tifffile
    except ModuleNotFoundError:
        raise UsageError(f"{file}: this TIFF needs tifffile: pip install 'composer-vision[geo]'") from None
    with tifffile.TiffFile(file) as tiff:
        images = [series for series in tiff.series if not (series.keyframe.is_mask or series.keyframe.is_reduced)]
        series, page = images[0], images[0].keyframe
        check_size(file, series.size * series.dtype.itemsize)
        others = [axis for axis, name in enumerate(series.axes) if name not in "YX"]
        if len(others) > 1:
            raise UsageError(f"{file}: an image has height, width and bands (this has axes {series.axes}).")
        stored = _decode_page(file, series)
        stored = np.moveaxis(stored, others[0], -1) if others else stored[..., None]
        nodata, remarks = _read_nodata(page.tags, stored.dtype)
        absent = np.zeros(stored.shape, bool) if nodata is None else stored == nodata
        for other in tiff.series:
            mask = other.keyframe
            if mask.is_mask and not mask.is_reduced and mask.shape[:2] == stored.shape[:2]:
                absent |= _decode_page(file, mask).reshape(*stored.shape[:2], 1) == 0
                break
    if len(images) > 1:
        remarks = (f"the first of its {len(images)} images", *remarks)
    values, inverted = _convert_colours(file, page, stored)
    orientation = page.tags.valueof(_TIFF_ORIENTATION, 1)
    upright, absent = (apply_orientation(x, orientation) for x in (values, np.broadcast_to(absent, values.shape)))
    turned = ("turned upright, as its EXIF orientation says",) if upright is not values else ()
    return build_raster(file, np.moveaxis(upright, -1, 0), remarks + inverted + turned, np.moveaxis(absent, -1, 0))


def _decode_page(file: str, source: Any) -> Array:
    """The numbers of a page or of a series, as they are stored."""
    try:
        values: Array = source.asarray()
    except Exception as error:  # ValueError for compressions, NotImplementedError for packed bits
        if "imagecodecs" not in str(error):
            raise
        raise UsageError(f"{file}: its compression needs imagecodecs: pip install 'composer-vision[geo]'") from error
    return values.astype(np.uint8) if values.dtype == bool else values


def _convert_colours(file: str, page: Any, stored: Array) -> tuple[Array, tuple[str, ...]]:
    """What a viewer makes of stored numbers (height, width, bands), and a remark where it inverts them."""
    colours, bits = int(page.photometric), int(page.bitspersample)
    if colours not in _PLAIN_PHOTOMETRICS and (colours, int(page.compression)) != (_YCBCR, _JPEG):
        name = getattr(page.photometric, "name", colours)
        raise UsageError(f"{file}: bands in the colour space {name} cannot be read from this TIFF; save it as RGB.")
    if colours == _PALETTE:
        return np.moveaxis((page.colormap >> 8).astype(np.uint8)[:, stored[..., 0]], 0, -1), ()
    values = stored * np.uint8(255 // (2**bits - 1)) if bits < 8 else stored
    if colours != _WHITE_IS_ZERO or values.dtype.kind != "u":
        return values, ()
    white = values.dtype.type(2 ** max(bits, 8) - 1)
    return np.concatenate([white - values[..., :1], values[..., 1:]], axis=-1), (INVERTED_REMARK,)


def _read_nodata(tags: Any, numbers: np.dtype[Any]) -> tuple[float | None, tuple[str, ...]]:
    """What GDAL says stands for no data; none and a remark where that is no number, or none that the image can hold."""
    if NODATA_TAG not in tags:
        return None, ()
    said = str(tags[NODATA_TAG].value).strip("\0 ")
    try:
        number = float(said)
        is_held = numbers.kind == "f" or (int(number) == number and _is_representable(numbers, int(number)))
    except (ValueError, OverflowError):
        is_held = False
    if is_held:
        return number, ()
    return None, (f"its mark of no data, {said[:40]!r}, is no number of {numbers}, and means nothing",)


def _is_representable(numbers: np.dtype[Any], number: int) -> bool:
    return numbers.kind in "iu" and np.iinfo(numbers).min <= number <= np.iinfo(numbers).max
