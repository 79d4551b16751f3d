"""TIFFs that hold more than a picture does: many bands, many bits, many pixels. tifffile reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from composer.commands.rasters import Raster, check_size, raster_of
from composer.commands.terminal import UsageError

_COLOURS, _TURN, _NODATA = 262, 274, 42113


def is_called_tiff(file: str) -> bool:
    """Whether the name ends as those of TIFFs do."""
    return Path(file).suffix.lower() in (".tif", ".tiff")


def is_to_be_turned(file: str) -> bool:
    """Whether only Pillow makes of this TIFF what a viewer shows: a palette to be resolved, or an orientation."""
    with _tifffile(file).TiffFile(file) as tiff:
        tags = tiff.pages[0].tags
        palette, upright = 3, 1
        return bool(tags.valueof(_COLOURS) == palette or tags.valueof(_TURN, upright) != upright)


def _tifffile(file: str) -> Any:
    try:
        import tifffile
    except ModuleNotFoundError:
        raise UsageError(f"{file}: this TIFF needs tifffile: pip install 'composer-vision[geo]'") from None
    return tifffile


def from_tiff(file: str) -> Raster:
    """The bands of a TIFF, which knows them. Raises UsageError for what is none, or too large."""
    with _tifffile(file).TiffFile(file) as tiff:
        series = tiff.series[0]
        nodata, unread = _nodata(series.keyframe.tags, series.dtype)
        check_size(file, series.size * series.dtype.itemsize)
        try:
            values = series.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            raise UsageError(
                f"{file}: its compression needs imagecodecs: pip install 'composer-vision[geo]'"
            ) from error
        remarks: tuple[str, ...] = (f"the first of its {len(tiff.series)} images",) if len(tiff.series) > 1 else ()
    remarks += unread
    others = [axis for axis, name in enumerate(series.axes) if name not in "YX"]
    if len(others) > 1:
        raise UsageError(f"{file}: an image has height, width and bands (this has axes {series.axes}).")
    return raster_of(file, np.moveaxis(values, others[0], 0) if others else values[None], remarks, nodata)


def _nodata(tags: Any, numbers: np.dtype[Any]) -> tuple[float | None, tuple[str, ...]]:
    """What GDAL says stands for no data; none and a remark where that is no number, or none that the image can hold."""
    if _NODATA not in tags:
        return None, ()
    said = str(tags[_NODATA].value).strip("\0 ")
    try:
        number = float(said)
        is_held = numbers.kind == "f" or (int(number) == number and _holds(numbers, int(number)))
    except (ValueError, OverflowError):
        is_held = False
    if is_held:
        return number, ()
    return None, (f"its mark of no data, {said[:40]!r}, is no number of {numbers}, and means nothing",)


def _holds(numbers: np.dtype[Any], number: int) -> bool:
    return numbers.kind in "iu" and np.iinfo(numbers).min <= number <= np.iinfo(numbers).max
