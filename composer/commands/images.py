"""Pictures and arrays in files, as bands of numbers. A file is read as it is; whoever asks picks bands afterwards."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from composer.commands.deep import read_deep_picture
from composer.commands.rasters import Array, Raster, apply_orientation, build_raster, check_size, format_array_shape
from composer.commands.terminal import UsageError, check_file
from composer.commands.tiff import INVERTED_REMARK, NODATA_TAG, has_tiff_suffix, read_tiff
from composer.feature import format_count

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
