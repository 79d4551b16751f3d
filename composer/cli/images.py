"""Read images and rasters."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray
from PIL import Image, ImageOps

from composer.cli.terminal import UsageError, check_file
from composer.layouts import format_count

Array = NDArray[Any]

NO_DATA_VALUE = -9999
"""The value of satellite products for pixels without data, which few files declare."""

MAX_IMAGE_BYTES = 2**32
"""Bytes of an image in memory; all bands of a Sentinel-2 tile take three quarters."""

INVERTED_REMARK = "inverted, because its zero is white"
UPRIGHT_REMARK = "turned upright, as its EXIF orientation says"


@frozen(eq=False)
class Raster:
    """An image as its file holds it.

    `values` is (band, height, width), or (band, frame, height, width), in the type of the file. `missing` marks values
    that are not finite and those declared as no data. `remarks` describe conversions. `white` is the largest value,
    where the file format defines one beyond 8 bits.
    """

    file: str
    values: Array
    missing: NDArray[np.bool_]
    remarks: tuple[str, ...] = ()
    white: int | None = None


def read_raster(file: str, channels: int, frames: int | None = None, *, picked: bool = False) -> Raster:
    """Read an image for a model input of `channels` bands, and of `frames` where it has several.

    Pictures are turned upright, palettes are resolved, and transparent pixels are blended with white, unless alpha is
    one of the `channels` bands. TIFFs that are more than a picture are read by tifffile, with all bands. The bands of a
    `.npy` array are its first or last axis: the one of size `channels`, or the shorter one if bands are `picked` from
    it. An array with frames is (frames, bands, height, width). Raises UsageError for everything else.
    """
    path = Path(file)
    check_file(file)
    if not path.stat().st_size:
        raise UsageError(f"{file}: the file is empty.")
    suffix = path.suffix.lower()
    if frames is not None and suffix != ".npy":
        raise UsageError(
            f"{file}: an image of {format_count(frames, 'frame')} is read from a .npy array "
            f"(frames, bands, height, width)."
        )
    if suffix in (".npz", ".pt", ".pth", ".safetensors"):
        raise UsageError(f"{file}: this is a collection of arrays; save the one that is the image as .npy.")
    try:
        with _drop_warnings():
            if suffix == ".npy":
                return _read_array(file, channels, frames, picked=picked)
            return _read_picture(file, channels, picked=picked)
    except UsageError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UsageError(f"{file}: a picture has at most {Image.MAX_IMAGE_PIXELS:,} pixels; crop it.") from None
    except MemoryError:
        raise UsageError(f"{file}: out of memory for an image of this size; crop it.") from None
    except Exception as error:  # decoders raise almost any error for a damaged file
        reason = str(error).split("\n")[0].rstrip(".") or type(error).__name__
        raise UsageError(f"{file}: cannot be read as an image ({reason}).") from error


@contextmanager
def _drop_warnings() -> Iterator[None]:
    """Silence the warnings of Pillow and tifffile, except the one for pictures of too many pixels, which is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        logging.disable(before)


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
        return _build_raster(file, np.moveaxis(values, 1, 0))
    if values.ndim == 2:
        return _build_raster(file, values[None])
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
    return _build_raster(file, np.moveaxis(values, -1, 0) if bands_last else values)


def _build_raster(
    file: str, values: Array, remarks: tuple[str, ...] = (), absent: Array | None = None, white: int | None = None
) -> Raster:
    """Build the raster of bands; `absent` marks no data. Raises UsageError for empty arrays and for other types."""
    if values.dtype.kind not in "buif" or values.size == 0:
        raise UsageError(
            f"{file}: an image holds numbers (this holds {values.dtype}, shape {_format_array_shape(values.shape)})."
        )
    missing = np.zeros(values.shape, bool) if values.dtype.kind != "f" else ~np.isfinite(values)
    if absent is not None:
        missing |= absent
    if values.dtype.kind in "if" and values.dtype.itemsize > 1:
        missing |= values == NO_DATA_VALUE
    return Raster(file, values, missing, remarks, white)


def _check_size(file: str, size: int) -> None:
    if size > MAX_IMAGE_BYTES:
        raise UsageError(
            f"{file}: an image has at most {MAX_IMAGE_BYTES / 2**30:g} GiB (this has {size / 2**30:,.1f}); crop it."
        )


def _format_array_shape(shape: tuple[int, ...]) -> str:
    """`3 × 48 × 64`."""
    return " × ".join(map(str, shape)) or "one number"


def _apply_orientation(values: Array, orientation: int) -> Array:
    """Turn values (height, width, …) by an EXIF orientation from 1 to 8."""
    if orientation not in range(2, 9):
        return values
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    rows, columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return values[:: -1 if rows else 1, :: -1 if columns else 1]


_FOUR_BANDS = ("LA", "RGBA", "RGBX", "CMYK")

_BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _PLANES, _NODATA = 258, 262, 274, 277, 284, 42113
"""Tags of a TIFF; the last one is GDAL's."""


def _read_picture(file: str, channels: int, *, picked: bool) -> Raster:
    try:
        image = Image.open(file)
    except (Image.DecompressionBombWarning, OSError) as error:
        # Pillow's limit of pixels is half a tile of Sentinel-2, whatever its bands.
        if Path(file).suffix.lower() in (".tif", ".tiff"):
            return _read_tiff(file)
        if isinstance(error, OSError):
            raise UsageError(f"{file}: not an image that Pillow can read; use PNG, JPEG, TIFF or .npy.") from None
        raise
    with image:
        if image.format == "TIFF" and _is_more_than_a_picture(image):
            return _read_tiff(file)
        deep = _read_deep_picture(file, image)
        # Only now, because this decodes a PNG; and before the pixels of a TIFF, which Pillow turns as it decodes them.
        orientation = image.getexif().get(_ORIENTATION, 1)
        remarks = [UPRIGHT_REMARK] if orientation != 1 else []
        if deep:
            values, alpha = _apply_orientation(deep[0], orientation), deep[1]
        else:
            values, alpha = _extract_pixels(ImageOps.exif_transpose(image), channels, picked=picked)
        if not deep and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0:
            remarks.append(INVERTED_REMARK)
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
            remarks.append(f"the first of its {getattr(image, 'n_frames', 1)} frames")
    count = values.shape[-1]
    if alpha and (picked or count == channels):
        remarks.append(f"alpha counts as band {count}")
    elif alpha:
        values = _fill_transparent_pixels(values, remarks)
    return _build_raster(file, np.moveaxis(values, -1, 0), tuple(remarks), white=deep[2] if deep else None)


def _extract_pixels(image: Image.Image, channels: int, *, picked: bool) -> tuple[Array, bool]:
    """Return values (height, width, bands), and whether the last band is alpha."""
    mode, transparent = image.mode, image.has_transparency_data
    grey = mode in ("1", "L", "LA")
    if mode in _FOUR_BANDS and (picked or len(mode) == channels):
        return np.asarray(image), transparent
    if transparent:
        values = np.asarray(image.convert("RGBA"))
        return values[..., [0, 3]] if grey else values, True
    if mode not in ("L", "RGB", "I", "F") and not mode.startswith("I;16"):
        image = image.convert("L" if grey else "RGB")
    return np.atleast_3d(np.asarray(image)), False


def _fill_transparent_pixels(values: Array, remarks: list[str]) -> Array:
    """Blend values (height, width, bands), the last of which is alpha, with white; return them without alpha."""
    white = np.iinfo(values.dtype).max
    share = values[..., -1:] / white
    if share.min() < 1:
        remarks.append("transparent pixels laid over white")
    return (values[..., :-1] * share + white * (1 - share)).round().astype(values.dtype)


_SIXTEEN_BIT_LAYOUTS = (("RGBA", "LA;16B"), ("RGB", "RGB;16B"), ("RGBA", "RGBA;16B"))
"""Modes of Pillow and layouts of PNG files of which Pillow keeps only the high bytes."""


def _read_deep_picture(file: str, image: Image.Image) -> tuple[Array, bool, int | None] | None:
    """Read more than 8 bits per colour: (height, width, bands), whether the last band is alpha, and the white level.

    Returns None for a picture that Pillow reads in full. Raises UsageError for one that cannot be read in full.
    """
    tiles: Any = getattr(image, "tile", None)
    if not tiles:
        return None
    tile = tiles[0]
    codec = tile.args if isinstance(tile.args, tuple) else (tile.args,)
    if image.format == "PPM" and tile.codec_name == "ppm" and len(codec) > 1 and codec[-1] > 255:
        shape = (image.height, image.width, len(image.getbands()))
        values = np.fromfile(file, ">u2", int(np.prod(shape)), offset=tile.offset)
        return values.reshape(shape).astype(np.uint16), False, codec[-1] if shape[-1] == 3 else None
    if image.format == "PNG" and (image.mode, tile.args) in _SIXTEEN_BIT_LAYOUTS:
        bands = tile.args.removesuffix(";16B")
        return _read_png(file, bands), bands.endswith("A"), 65535
    # The layout BGR;16 is another: 16 bits for all three colours.
    is_cut = str(codec[0] if codec else "").endswith((";16B", ";16L", ";16N")) or tile.codec_name == "SGI16"
    is_deep_jpeg = image.format == "JPEG2000" and _read_jpeg2000_bits(file) > 8
    is_deep_ppm = image.format == "PPM" and len(codec) > 1 and codec[-1] > 255
    if is_deep_ppm or ((is_cut or is_deep_jpeg) and not image.mode.startswith("I")):
        raise UsageError(
            f"{file}: its colours have more than 8 bits, which cannot be read here; save it as TIFF or .npy."
        )
    return None


def _read_png(file: str, bands: str) -> Array:
    """Decode the file with Pillow once for the high bytes and once for the low ones."""
    if bands == "LA":
        # Pillow has no layout for the low bytes, but the four bytes of a pixel are those of 8-bit RGBA.
        both = _decode_layout(file, "RGBA")
        return (both[..., ::2] << 8) | both[..., 1::2]
    return (_decode_layout(file, f"{bands};16B") << 8) | _decode_layout(file, f"{bands};16L")


def _decode_layout(file: str, layout: str) -> Array:
    image: Any
    with Image.open(file) as image:
        image.tile = [tile._replace(args=layout) for tile in image.tile]
        return np.asarray(image).astype(np.uint16)


def _read_jpeg2000_bits(file: str) -> int:
    """Return the bits of the first component, from the beginning of the codestream."""
    with open(file, "rb") as stream:
        head = stream.read(2**16)
    size = head.find(b"\xff\x4f\xff\x51")
    return (head[size + 42] & 0x7F) + 1 if 0 <= size < len(head) - 42 else 0


_WHITE_IS_ZERO, _PALETTE, _YCBCR, _JPEG = 0, 3, 6, 7

_PLAIN_PHOTOMETRICS = (_WHITE_IS_ZERO, 1, 2, _PALETTE, 5, 34892)
"""Photometric interpretations whose numbers are bands: grey, RGB, palette, inks, raw."""


def _is_more_than_a_picture(image: Image.Image) -> bool:
    """Return whether Pillow would drop something of this TIFF: pages, bands, bits, or its no-data value."""
    tags: Any = getattr(image, "tag_v2", {})
    # Pillow does not invert an image whose zero is white if its bands are stored one after the other.
    is_wrong = tags.get(_PHOTOMETRIC) == 0 and tags.get(_PLANES) == 2
    is_more = max(tags.get(_BITS, (1,))) > 8 or tags.get(_SAMPLES, 1) != len(image.getbands()) or _NODATA in tags
    try:
        return is_wrong or is_more or getattr(image, "n_frames", 1) > 1
    except SyntaxError:  # Pillow's error for a page that it cannot read, such as the mask of GDAL
        return True


def _read_tiff(file: str) -> Raster:
    """Read all bands of a TIFF with tifffile. Raises UsageError for one that cannot be read, or is too large.

    As with Pillow, palettes are resolved, fewer than 8 bits are scaled to 8, and the image is turned upright. Stored
    values that equal the no-data value are missing, and so are pixels outside of the mask of the file.
    """
    try:
        import tifffile
    except ModuleNotFoundError:
        raise UsageError(f"{file}: this TIFF needs tifffile: pip install 'composer-vision[geo]'") from None
    with tifffile.TiffFile(file) as tiff:
        images = [series for series in tiff.series if not (series.keyframe.is_mask or series.keyframe.is_reduced)]
        series, page = images[0], images[0].keyframe
        _check_size(file, series.size * series.dtype.itemsize)
        others = [axis for axis, name in enumerate(series.axes) if name not in "YX"]
        if len(others) > 1:
            raise UsageError(f"{file}: an image has height, width and bands (this has axes {series.axes}).")
        stored = _decode_page(file, series)
        stored = np.moveaxis(stored, others[0], -1) if others else stored[..., None]
        remarks = [f"the first of its {len(images)} images"] if len(images) > 1 else []
        nodata = _read_nodata(page.tags, stored.dtype, remarks)
        absent = np.zeros(stored.shape, bool) if nodata is None else stored == nodata
        for other in tiff.series:
            mask = other.keyframe
            if mask.is_mask and not mask.is_reduced and mask.shape[:2] == stored.shape[:2]:
                absent |= _decode_page(file, mask).reshape(*stored.shape[:2], 1) == 0
                break
    values = _convert_colours(file, page, stored, remarks)
    orientation = page.tags.valueof(_ORIENTATION, 1)
    if orientation in range(2, 9):
        remarks.append(UPRIGHT_REMARK)
    values, absent = (_apply_orientation(x, orientation) for x in (values, np.broadcast_to(absent, values.shape)))
    return _build_raster(file, np.moveaxis(values, -1, 0), tuple(remarks), np.moveaxis(absent, -1, 0))


def _decode_page(file: str, source: Any) -> Array:
    """Return the stored numbers of a page or of a series."""
    try:
        values: Array = source.asarray()
    except Exception as error:  # ValueError for compressions, NotImplementedError for packed bits
        if "imagecodecs" not in str(error):
            raise
        raise UsageError(f"{file}: its compression needs imagecodecs: pip install 'composer-vision[geo]'") from error
    return values.astype(np.uint8) if values.dtype == bool else values


def _convert_colours(file: str, page: Any, stored: Array, remarks: list[str]) -> Array:
    """Resolve palettes, scale fewer than 8 bits and invert white-is-zero values (height, width, bands)."""
    photometric, bits = int(page.photometric), int(page.bitspersample)
    if photometric not in _PLAIN_PHOTOMETRICS and (photometric, int(page.compression)) != (_YCBCR, _JPEG):
        name = getattr(page.photometric, "name", photometric)
        raise UsageError(f"{file}: bands in the colour space {name} cannot be read from this TIFF; save it as RGB.")
    if photometric == _PALETTE:
        return np.moveaxis((page.colormap >> 8).astype(np.uint8)[:, stored[..., 0]], 0, -1)
    values = stored * np.uint8(255 // (2**bits - 1)) if bits < 8 else stored
    if photometric != _WHITE_IS_ZERO or values.dtype.kind != "u":
        return values
    remarks.append(INVERTED_REMARK)
    white = values.dtype.type(2 ** max(bits, 8) - 1)
    return np.concatenate([white - values[..., :1], values[..., 1:]], axis=-1)


def _read_nodata(tags: Any, dtype: np.dtype[Any], remarks: list[str]) -> float | None:
    """Return GDAL's no-data value; None and a remark where it is not a value of `dtype`."""
    if _NODATA not in tags:
        return None
    text = str(tags[_NODATA].value).strip("\0 ")
    try:
        number = float(text)
        is_integer = dtype.kind in "iu" and int(number) == number
        if dtype.kind == "f" or (is_integer and np.iinfo(dtype).min <= number <= np.iinfo(dtype).max):
            return number
    except (ValueError, OverflowError):
        pass
    remarks.append(f"its no-data value {text[:40]!r} is not a number of {dtype}, and is ignored")
    return None
