"""Prepare images as inputs of a model: bands, normalisation, size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from composer.cli.images import Array, Raster, read_raster
from composer.cli.pictures import NO_DATA_LEVEL
from composer.cli.terminal import UsageError
from composer.graph import Shared
from composer.inference import TypedGraph, explain_too_large
from composer.layouts import format_count

Bands = tuple[int, ...]


@frozen(eq=False)
class PreparedInput:
    """An image as an input of the model, without the batch, and as RGB `picture` (height, width, 3) to draw."""

    name: str
    file: str
    values: NDArray[Any]
    picture: NDArray[np.uint8]
    remarks: tuple[str, ...]

    def __str__(self) -> str:
        """`image: photo.jpg, 480 high, 640 wide; bands 4,3,2 of 10`."""
        height, width = self.picture.shape[:2]
        return "; ".join([f"{self.name}: {self.file}, {height} high, {width} wide", *self.remarks])


@frozen
class PretrainedStats:
    """Mean and deviation of red, green and blue in 0..1 that the pretrained weights of an encoder expect."""

    encoder: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def prepare_inputs(
    typed: TypedGraph, images: Sequence[str], bands: Sequence[str] = (), show_bands: Sequence[str] = ()
) -> list[PreparedInput]:
    """Read the inputs of a graph from image files.

    Each of `images`, `bands` and `show_bands` is a value, or NAME=VALUE where the graph has several inputs. Raises
    UsageError for images and bands that do not fit the graph.
    """
    inputs = dict(typed.graph.inputs)
    files = split_by_input(images, tuple(inputs), "--image")
    if absent := [name for name in inputs if name not in files]:
        raise UsageError(f"--image: there is none for {', '.join(absent)}; add --image {absent[0]}=FILE.")
    used, drawn = (
        {name: parse_bands(text, option) for name, text in split_by_input(values, tuple(inputs), option).items()}
        for values, option in ((bands, "--bands"), (show_bands, "--show-bands"))
    )
    rasters = {
        name: read_raster(files[name], image.channels, image.frames, picked=name in used)
        for name, image in inputs.items()
    }
    check_sizes(typed, rasters)
    prepared = []
    for name, raster in rasters.items():
        chosen, remark = select_bands(raster, name, inputs[name].channels, used.get(name))
        shown, preview_remark = select_preview_bands(raster, chosen, drawn.get(name))
        values, missing = _select_values(raster, chosen)
        stats = find_pretrained_stats(typed, name)
        values, method = normalize_bands(values, missing, stats, f"{raster.file}: {name}", raster.white)
        remarks = (*raster.remarks, remark, method, describe_missing_pixels(missing), preview_remark)
        picture = render_preview(raster, shown)
        prepared.append(PreparedInput(name, raster.file, values, picture, tuple(filter(None, remarks))))
    return prepared


def split_by_input(values: Sequence[str], inputs: Sequence[str], option: str) -> dict[str, str]:
    """Map inputs to values: `["s2=a.tif", "s1=b.tif"]`. A bare value belongs to the only input.

    Raises UsageError for unknown and repeated inputs.
    """
    by_input: dict[str, str] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or name not in inputs:
            if len(inputs) > 1:
                raise UsageError(
                    f"{option} {text}: the model has the inputs {', '.join(inputs)}; say which: {option} {inputs[0]}=…"
                )
            name, value = inputs[0], text
        if name in by_input:
            raise UsageError(f"{option}: {name} is given twice, {by_input[name]} and {value}.")
        by_input[name] = value
    return by_input


def parse_bands(text: str, option: str) -> Bands:
    """Parse `4,3,2` as (4, 3, 2). Raises UsageError for anything but numbers from 1."""
    numbers = text.split(",")
    if all(number.isdecimal() and len(number) < 6 and int(number) > 0 for number in numbers):
        return tuple(map(int, numbers))
    raise UsageError(f"{option}: expected numbers from 1 with commas, such as 4,3,2 (got {text}).")


def _format_bands(bands: Bands) -> str:
    return ",".join(map(str, bands))


def select_bands(raster: Raster, name: str, channels: int, bands: Bands | None) -> tuple[Bands, str | None]:
    """Return the bands for input `name`, and a remark on them. Raises UsageError where they do not fit."""
    count, needed = len(raster.values), format_count(channels, "band")
    if bands is not None:
        _check_bands(raster, bands, "--bands")
        if len(bands) != channels:
            raise UsageError(f"--bands: input {name!r} expects {needed} (got {len(bands)}: {_format_bands(bands)}).")
        return bands, f"bands {_format_bands(bands)} of {count}"
    if count == channels:
        return tuple(range(1, count + 1)), None
    if count == 1 and channels == 3 and raster.values.ndim == 3:
        return (1, 1, 1), "one grey band, used for all three channels"
    example = _format_bands(tuple(range(1, channels + 1)))
    step = f"pick them with --bands, counted from 1: --bands {example}" if count > channels else "use another image"
    raise UsageError(f"{raster.file}: input {name!r} expects {needed}; the file has {count}; {step}.")


def select_preview_bands(raster: Raster, used: Bands, bands: Bands | None) -> tuple[Bands, str | None]:
    """Return one band (grey) or three (red, green, blue) to draw, and a remark on them.

    Of more than three used bands, the third, second and first are a guess, as for Landsat and Sentinel-2.
    """
    if bands is not None:
        _check_bands(raster, bands, "--show-bands")
        if len(bands) not in (1, 3):
            raise UsageError(f"--show-bands: one band, or three as red, green and blue (got {_format_bands(bands)}).")
        return bands, None
    if len(used) == 3:
        return used, None
    if len(used) < 3:
        return used[:1], f"band {used[0]} shown as grey" if len(used) == 2 else None
    guess = (used[2], used[1], used[0])
    return guess, f"bands {_format_bands(guess)} shown as red, green and blue: a guess, --show-bands says otherwise"


def _check_bands(raster: Raster, bands: Bands, option: str) -> None:
    count = len(raster.values)
    if beyond := tuple(band for band in bands if band > count):
        raise UsageError(
            f"{option}: {raster.file} has {format_count(count, 'band')}, counted from 1 (got {_format_bands(beyond)})."
        )


def _select_values(raster: Raster, bands: Bands) -> tuple[Array, Array]:
    """Return the values of some bands, counted from 1, and which of them are missing."""
    chosen = [band - 1 for band in bands]
    return raster.values[chosen], raster.missing[chosen]


def check_sizes(typed: TypedGraph, rasters: Mapping[str, Raster]) -> None:
    """Raise UsageError for images that do not cover the same reference pixels, or that are too large for the graph."""
    (first, image), *_ = typed.graph.inputs
    height, width = (side * image.stride for side in rasters[first].values.shape[-2:])
    for name, other in typed.graph.inputs:
        sides = rasters[name].values.shape[-2:]
        expected = (float(height / other.stride), float(width / other.stride))
        if sides != expected:
            raise UsageError(
                f"{rasters[name].file}: {name} must have {expected[0]:g} × {expected[1]:g} pixels (height × width), "
                f"to cover what {first} covers (this has {sides[0]} × {sides[1]})."
            )
    is_whole = height == int(height) and width == int(width)
    if not is_whole or typed.sizes.compute_padded_size(int(height), int(width)) is None:
        raise UsageError(f"{rasters[first].file}: {explain_too_large(typed, int(height), int(width))}")


def find_pretrained_stats(typed: TypedGraph, name: str) -> PretrainedStats | None:
    """Find the statistics of the first encoder that takes input `name`."""
    for node in typed.order:
        owner = node.part.node if isinstance(node.part, Shared) else node.name
        info = typed.encoder_infos.get(owner)
        if info is not None and info.mean and node.sources == (name,):
            return PretrainedStats(owner, info.mean, info.std)
    return None


def describe_missing_pixels(missing: NDArray[Any]) -> str | None:
    """Return a remark on the pixels of which any band is missing; None where there are none."""
    absent = missing.any(axis=0)
    count = int(absent.sum())
    action = "holds no data, and gets its" if count == 1 else "hold no data, and get their"
    return f"{count} of {format_count(absent.size, 'pixel')} {action} band's mean" if count else None


def normalize_bands(
    values: Array, missing: Array, stats: PretrainedStats | None, name: str, white: int | None = None
) -> tuple[Array, str]:
    """Return bands (band, …) as normalised float32, and a remark on how.

    With `stats`, three bands in 0..255, 0..1 or 0..`white` are normalised by them. Otherwise each band gets zero mean
    and unit deviation over the image. Missing pixels get their band's mean. Raises UsageError for a band without data,
    and for numbers too large to average.
    """
    highest = white or infer_full_scale(values, missing)
    if stats is not None and (highest is None or len(values) != 3 or len(stats.mean) != 3):
        stats = None
    result = np.empty(values.shape, np.float32)
    for index, (band, absent) in enumerate(zip(values, missing, strict=True)):
        numbers = band.astype(np.float64)
        present = numbers[~absent]
        if not present.size:
            raise UsageError(f"{name}: band {index + 1} of the input holds no data at all.")
        with np.errstate(over="ignore"):
            mean, deviation = present.mean(), present.std() or 1.0
        if not (np.isfinite(mean) and np.isfinite(deviation)):
            largest = present[np.abs(present).argmax()]
            raise UsageError(f"{name}: band {index + 1} holds numbers too large to average, such as {largest:g}.")
        numbers[absent] = mean
        if stats is not None:
            mean, deviation = stats.mean[index] * (highest or 1), stats.std[index] * (highest or 1)
        result[index] = (numbers - mean) / deviation
    if stats is None:
        return result, "each band to zero mean and unit deviation over this image"
    means, deviations = (", ".join(f"{number:g}" for number in side) for side in (stats.mean, stats.std))
    return result, f"values 0 to {highest}, normalised for {stats.encoder}: mean {means}, deviation {deviations}"


def infer_full_scale(values: Array, missing: Array) -> int | None:
    """Return the largest brightness, 255 or 1, that the numbers fit; None for numbers on another scale."""
    if values.dtype == np.uint8:
        return 255
    present = values[~missing]
    if not present.size or present.min() < 0:
        return None
    largest = present.max()
    return 1 if largest <= 1 else 255 if largest <= 255 else None


def render_preview(raster: Raster, bands: Bands) -> NDArray[np.uint8]:
    """Convert one band or three to RGB (height, width, 3); of several frames, the first.

    A picture of at most three bands in 0..255 or 0..1 is drawn unchanged. Otherwise each band is stretched from its 2nd
    to its 98th percentile. Pixels without data are grey.
    """
    values, missing = _select_values(raster, bands)
    if values.ndim == 4:
        values, missing = values[:, 0], missing[:, 0]
    highest = raster.white or infer_full_scale(values, missing) if len(raster.values) <= 3 else None
    levels = np.empty((3, *values.shape[1:]), np.uint8)
    for index, (band, absent) in enumerate(zip(values, missing, strict=True)):
        present = band[~absent] if not absent.all() else np.zeros(1)
        low, high = (0, highest) if highest else np.percentile(present, [2, 98])
        numbers = np.where(absent, low, band).astype(np.float64)
        levels[index:] = np.interp(numbers, [low, high], [0, 255]).round() if high > low else 128
    picture = np.moveaxis(levels, 0, -1)
    picture[missing.any(axis=0)] = NO_DATA_LEVEL
    return picture
