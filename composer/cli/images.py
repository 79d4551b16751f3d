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


_SIXTEEN_BIT_LAYOUTS = (("RGBA", "LA;16B"), ("RGB", "RGB;16B"), ("RGBA", "RGBA;16B"))
"""Modes of Pillow and the layouts of PNG files, of which it keeps the high byte of each colour."""


def read_deep_picture(file: str, image: Image.Image) -> tuple[Array, int | None] | None:
    """The values (height, width, bands) of a picture of more than 8 bits a colour, and what white is in its colours.

    None for a picture that Pillow reads in full. Raises UsageError where it does not, and cannot be read here.
    """
    tiles: Any = getattr(image, "tile", None)
    tile = tiles[0] if tiles else None
    if image.format == "PPM" and tile is not None and isinstance(tile.args, tuple) and tile.args[-1] > 255:
        if tile.codec_name == "ppm":
            shape = (image.height, image.width, len(image.getbands()))
            values = np.fromfile(file, ">u2", int(np.prod(shape)), offset=tile.offset)
            return values.reshape(shape).astype(np.uint16), tile.args[-1] if shape[-1] == 3 else None
        raise _build_depth_error(file)
    if image.format == "PNG" and tile is not None and (image.mode, tile.args) in _SIXTEEN_BIT_LAYOUTS:
        return _read_png(file, tile.args.removesuffix(";16B")), 65535
    if (tile is not None and _is_truncated(image.mode, tile)) or (
        image.format == "JPEG2000" and _read_jpeg2000_bits(file) > 8 and not image.mode.startswith("I")
    ):
        raise _build_depth_error(file)
    return None


def _is_truncated(mode: str, tile: Any) -> bool:
    """Whether Pillow decodes colours of 16 bits into bytes. Its layout BGR;16 is another: 16 bits for all three."""
    layout = str(tile.args[0] if isinstance(tile.args, tuple) and tile.args else tile.args)
    return "I" not in mode and (tile.codec_name == "SGI16" or layout.endswith((";16B", ";16L", ";16N")))


def _read_png(file: str, bands: str) -> Array:
    """Decode the file with Pillow once for the high bytes and once for the low ones."""
    if bands == "LA":
        # Pillow has no layout for the low bytes, but the four bytes of a pixel are those of 8-bit RGBA.
        both = _decode_layout(file, "RGBA")
        high, low = both[..., ::2], both[..., 1::2]
    else:
        high, low = _decode_layout(file, f"{bands};16B"), _decode_layout(file, f"{bands};16L")
    return (high << 8) | low


def _decode_layout(file: str, layout: str) -> Array:
    image: Any
    with Image.open(file) as image:
        image.tile = [tile._replace(args=layout) for tile in image.tile]
        return np.asarray(image).astype(np.uint16)


def _read_jpeg2000_bits(file: str) -> int:
    """The bits of its first component, which its codestream begins with."""
    with open(file, "rb") as opened:
        head = opened.read(2**16)
    size = head.find(b"\xff\x4f\xff\x51")
    return (head[size + 42] & 0x7F) + 1 if 0 <= size < len(head) - 42 else 0


def _build_depth_error(file: str) -> UsageError:
    return UsageError(f"{file}: its colours have more than 8 bits, which cannot be read here; save it as TIFF or .npy.")


_FOUR_BANDS = ("LA", "RGBA", "RGBX", "CMYK")


_TIFF_BITS, _TIFF_COLOURS, _TIFF_SAMPLES, _TIFF_PLANES, _ORIENTATION = 258, 262, 277, 284, 274


def read_raster(file: str, channels: int, frames: int | None = None, *, picked: bool = False) -> Raster:
    """The image in `file`, for a model that takes `channels` bands, and `frames` where it takes several.

    What Pillow reads is read by Pillow: turned upright as its EXIF says, palettes resolved, and transparent pixels laid
    over white unless the alpha band is one of the `channels`. All 16 bits of a picture are kept. A TIFF of more than a
    picture holds is read by tifffile, and knows its bands and what is no data. In a `.npy` array (height, width, bands)
    or (bands, height, width) the bands are the axis that has `channels`; where `picked`, so that more are welcome, the
    shorter one. An array with frames is (frames, bands, height, width). Raises UsageError for whatever is no image.
    """
    path = Path(file)
    check_file(file)
    if not path.stat().st_size:
        raise UsageError(f"{file}: the file is empty.")
    suffix = path.suffix.lower()
    if frames is not None and suffix != ".npy":
        raise UsageError(
            f"{file}: an image of {format_count(frames, 'frame')} is read from a .npy array (frames, bands, height, width)."
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
        raise UsageError(f"{file}: there is not memory enough for an image of this size; crop it.") from None
    except Exception as error:  # a damaged file makes decoders raise almost anything
        reason = str(error).split("\n")[0].rstrip(".") or type(error).__name__
        raise UsageError(f"{file}: cannot be read as an image ({reason}).") from error


@contextmanager
def _drop_warnings() -> Iterator[None]:
    """Pillow and tifffile grumble about files that they read well enough; one line is all that a person wants."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        logging.disable(before)


def _read_picture(file: str, channels: int, *, picked: bool) -> Raster:
    try:
        image = Image.open(file)
    except Image.DecompressionBombWarning:
        # Pillow stops at half a tile of Sentinel-2, whatever is in it.
        if has_tiff_suffix(file):
            return read_tiff(file)
        raise
    except OSError:
        if has_tiff_suffix(file):
            return read_tiff(file)
        raise UsageError(f"{file}: this is no image that Pillow can read; PNG, JPEG, TIFF and .npy will do.") from None
    with image:
        if image.format == "TIFF" and _is_more_than_a_picture(image):
            return read_tiff(file)
        deep = read_deep_picture(file, image)
        orientation = image.getexif().get(_ORIENTATION, 1)
        upright = ImageOps.exif_transpose(image)
        remarks = ["turned upright, as its EXIF orientation says"] if orientation != 1 else []
        if deep is not None:
            values = _remove_alpha(apply_orientation(deep[0], orientation), channels, remarks, picked=picked)
            return build_raster(file, _move_bands_first(values), tuple(remarks), white=deep[1])
        if getattr(image, "tag_v2", {}).get(_TIFF_COLOURS) == 0:
            remarks.append(INVERTED_REMARK)
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
            remarks.append(f"the first of its {getattr(image, 'n_frames', 1)} frames")
        values = _extract_pixels(upright, channels, remarks, picked=picked)
    return build_raster(file, _move_bands_first(values), tuple(remarks))


def _extract_pixels(image: Image.Image, channels: int, remarks: list[str], *, picked: bool) -> Array:
    """The bands as they are where they are what is asked for; else the colours that a viewer shows."""
    mode, count, transparent = image.mode, len(image.getbands()), image.has_transparency_data
    plain = mode in ("L", "RGB", "I", "F") and not transparent
    if plain or mode.startswith("I;16") or (mode in _FOUR_BANDS and (picked or count == channels)):
        if transparent:
            remarks.append(f"alpha counts as band {count}")
        return np.asarray(image)
    grey = mode in ("1", "L", "LA", "La")
    if transparent:
        colours = image.convert("RGBA")
        if colours.getchannel("A").getextrema() != (255, 255):
            remarks.append("transparent pixels laid over white")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), colours)
    return np.asarray(image.convert("L" if grey else "RGB"))


def _remove_alpha(values: Array, channels: int, remarks: list[str], *, picked: bool) -> Array:
    """Values (height, width, bands) of 16 bits, whose transparent pixels are laid over white as those of 8 bits are."""
    count = values.shape[-1]
    if count in (1, 3):
        return values
    if picked or count == channels:
        remarks.append(f"alpha counts as band {count}")
        return values
    share = values[..., -1:] / 65535
    if share.min() < 1:
        remarks.append("transparent pixels laid over white")
    return (values[..., :-1] * share + 65535 * (1 - share)).round().astype(np.uint16)


def _is_more_than_a_picture(image: Image.Image) -> bool:
    """Whether Pillow would leave something of this TIFF out: pages, bands, bits, or what is no data."""
    tags: Any = getattr(image, "tag_v2", {})
    bits, samples = tags.get(_TIFF_BITS, (1,)), tags.get(_TIFF_SAMPLES, 1)
    # Pillow inverts an image whose zero is white, unless its bands are stored one after the other.
    is_wrong = tags.get(_TIFF_COLOURS) == 0 and tags.get(_TIFF_PLANES) == 2
    is_more = max(bits) > 8 or samples != len(image.getbands()) or NODATA_TAG in tags
    return is_wrong or is_more or _has_more_pages(image)


def _has_more_pages(image: Image.Image) -> bool:
    try:
        return getattr(image, "n_frames", 1) > 1
    except SyntaxError:  # Pillow's error for a page that it cannot read, such as the mask of GDAL
        return True


def _move_bands_first(values: Array) -> Array:
    return values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)


def _read_array(file: str, channels: int, frames: int | None, *, picked: bool) -> Raster:
    # Looked at where it lies, so that what it says of its size is held against the file.
    try:
        values = np.load(file, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        if "Python objects" not in str(error):
            raise
        raise UsageError(f"{file}: an image holds numbers (this holds objects of Python).") from None
    check_size(file, values.nbytes)
    values = np.array(values)
    if frames is not None:
        if values.ndim != 4 or values.shape[0] != frames:
            raise UsageError(
                f"{file}: the model takes {format_count(frames, 'frame')}, as an array ({frames}, bands, height, width) "
                f"(this is {format_array_shape(values.shape)})."
            )
        return build_raster(file, np.moveaxis(values, 1, 0))
    if values.ndim == 2:
        return build_raster(file, values[None])
    if values.ndim != 3:
        raise UsageError(
            f"{file}: an image is an array (bands, height, width) (this is {format_array_shape(values.shape)})."
        )
    first, _, last = values.shape
    fits = (first < last, last < first) if picked else (first == channels, last == channels)
    if fits == (True, True) or (picked and first == last):
        raise UsageError(
            f"{file}: both the first and the last axis of {format_array_shape(values.shape)} could be the bands; "
            f"crop or pad the image so that only one can."
        )
    # Where neither fits, the number of bands is wrong, and the shorter axis is the likelier one to say so of.
    bands_last = fits[1] if any(fits) else last < first
    return build_raster(file, _move_bands_first(values) if bands_last else values)
