"""Prepare images as inputs of a model: bands, normalisation, size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from composer.cli.images import Array, Raster, read_raster
from composer.cli.predictions import NO_DATA_COLOUR
from composer.cli.terminal import UsageError
from composer.graph import Shared
from composer.inference import TypedGraph, explain_too_large
from composer.layouts import Image, format_count

Bands = tuple[int, ...]


@frozen(eq=False)
class PreparedInput:
    """An image as an input of the model, without the batch, and as RGB `picture` (height, width, 3) to draw."""

    name: str
    file: str
    values: NDArray[Any]
    picture: NDArray[np.uint8]
    remarks: tuple[str, ...]


@frozen
class PretrainedStats:
    """Mean and deviation of red, green and blue in 0..1 that the pretrained weights of an encoder expect."""

    encoder: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def prepare_inputs(
    typed: TypedGraph, images: Sequence[str], bands: Sequence[str] = (), show_bands: Sequence[str] = ()
) -> tuple[list[PreparedInput], tuple[int, int]]:
    """Read the inputs of a graph from image files; return them with their size (height, width) in reference pixels.

    Each of `images`, `bands` and `show_bands` is a value, or NAME=VALUE where the graph has several inputs. Raises
    UsageError for images and bands that do not fit the graph.
    """
    inputs = dict(typed.graph.inputs)
    files = split_by_input(images, tuple(inputs), "--image")
    if absent := [name for name in inputs if name not in files]:
        raise UsageError(f"--image: there is none for {', '.join(absent)}; add --image {absent[0]}=FILE.")
    input_bands = _parse_band_options(bands, tuple(inputs), "--bands")
    preview_bands = _parse_band_options(show_bands, tuple(inputs), "--show-bands")
    rasters = {
        name: read_raster(files[name], image.channels, image.frames, picked=name in input_bands)
        for name, image in inputs.items()
    }
    chosen = {
        name: select_bands(rasters[name], name, image.channels, input_bands.get(name)) for name, image in inputs.items()
    }
    size = compute_reference_size(typed, rasters)
    return [
        _prepare_input(name, rasters[name], *chosen[name], preview_bands.get(name), find_pretrained_stats(typed, name))
        for name in inputs
    ], size


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


def _parse_band_options(values: Sequence[str], inputs: Sequence[str], option: str) -> dict[str, Bands]:
    texts = split_by_input(values, inputs, option)
    try:
        return {name: parse_bands(text) for name, text in texts.items()}
    except ValueError:
        got = ", ".join(texts.values())
        raise UsageError(f"{option}: expected numbers from 1 with commas, such as 4,3,2 (got {got}).") from None


def parse_bands(text: str) -> Bands:
    """Parse `4,3,2` as (4, 3, 2). Raises ValueError for anything else."""
    bands = tuple(int(number) for number in text.split(","))
    if any(band < 1 for band in bands):
        raise ValueError(f"bands are counted from 1 (got {text})")
    return bands


def format_bands(bands: Bands) -> str:
    """Format (4, 3, 2) as `4,3,2`."""
    return ",".join(map(str, bands))


def select_bands(raster: Raster, name: str, channels: int, bands: Bands | None) -> tuple[Bands, str | None]:
    """Return the bands for input `name`, and a remark on them. Raises UsageError where they do not fit."""
    count, needed = len(raster.values), format_count(channels, "band")
    if bands is not None:
        _check_bands(raster, bands, "--bands")
        if len(bands) != channels:
            raise UsageError(f"--bands: input {name!r} expects {needed} (got {len(bands)}: {format_bands(bands)}).")
        return bands, f"bands {format_bands(bands)} of {count}"
    if count == channels:
        return tuple(range(1, count + 1)), None
    if count == 1 and channels == 3 and raster.values.ndim == 3:
        return (1, 1, 1), "one grey band, used for all three channels"
    example = format_bands(tuple(range(1, channels + 1)))
    step = f"pick them with --bands, counted from 1: --bands {example}" if count > channels else "use another image"
    raise UsageError(f"{raster.file}: input {name!r} expects {needed}; the file has {count}; {step}.")


def select_preview_bands(raster: Raster, used: Bands, bands: Bands | None) -> tuple[Bands, str | None]:
    """Return one band (grey) or three (red, green, blue) to draw, and a remark on them.

    Of more than three used bands, the third, second and first are a guess, as for Landsat and Sentinel-2.
    """
    if bands is not None:
        _check_bands(raster, bands, "--show-bands")
        if len(bands) not in (1, 3):
            raise UsageError(f"--show-bands: one band, or three as red, green and blue (got {format_bands(bands)}).")
        return bands, None
    if len(used) == 3:
        return used, None
    if len(used) < 3:
        return used[:1], f"band {used[0]} shown as grey" if len(used) == 2 else None
    guess = (used[2], used[1], used[0])
    return guess, f"bands {format_bands(guess)} shown as red, green and blue: a guess, --show-bands says otherwise"


def _check_bands(raster: Raster, bands: Bands, option: str) -> None:
    count = len(raster.values)
    if beyond := tuple(band for band in bands if band > count):
        raise UsageError(
            f"{option}: {raster.file} has {format_count(count, 'band')}, counted from 1 (got {format_bands(beyond)})."
        )


def compute_reference_size(typed: TypedGraph, rasters: Mapping[str, Raster]) -> tuple[int, int]:
    """Return (height, width) in reference pixels. Raises UsageError for images that differ in it or are too large."""
    inputs = dict(typed.graph.inputs)
    first, image = typed.graph.inputs[0]
    covered = _compute_covered_size(rasters[first], image)
    for name, other in inputs.items():
        if _compute_covered_size(rasters[name], other) != covered:
            expected = " × ".join(f"{float(side / other.stride):g}" for side in covered)
            height, width = rasters[name].values.shape[-2:]
            raise UsageError(
                f"{rasters[name].file}: {name} must have {expected} pixels (height × width), "
                f"to cover what {first} covers (this has {height} × {width})."
            )
    height, width = (int(side) for side in covered)
    if any(side.denominator != 1 for side in covered) or typed.sizes.compute_padded_size(height, width) is None:
        raise UsageError(f"{rasters[first].file}: {explain_too_large(typed, height, width)}")
    return height, width


def _compute_covered_size(raster: Raster, image: Image) -> tuple[Fraction, Fraction]:
    height, width = raster.values.shape[-2:]
    return height * image.stride, width * image.stride


def find_pretrained_stats(typed: TypedGraph, name: str) -> PretrainedStats | None:
    """Find the statistics of the first encoder that takes input `name`."""
    for node in typed.order:
        owner = node.part.node if isinstance(node.part, Shared) else node.name
        facts = typed.facts.get(owner)
        if facts is not None and facts.mean and node.sources == (name,):
            return PretrainedStats(owner, facts.mean, facts.std)
    return None


def _prepare_input(
    name: str,
    raster: Raster,
    bands: Bands,
    band_remark: str | None,
    preview_bands: Bands | None,
    stats: PretrainedStats | None,
) -> PreparedInput:
    chosen = [band - 1 for band in bands]
    missing = raster.missing[chosen]
    values, method = normalize_bands(raster.values[chosen], missing, stats, f"{raster.file}: {name}", raster.white)
    drawn, preview_remark = select_preview_bands(raster, bands, preview_bands)
    remarks = [*raster.remarks, band_remark, method, _describe_missing_pixels(missing), preview_remark]
    return PreparedInput(name, raster.file, values, render_preview(raster, drawn), tuple(filter(None, remarks)))


def _describe_missing_pixels(missing: NDArray[Any]) -> str | None:
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
    result = np.empty(values.shape, np.float32)
    if stats is not None and (highest is None or len(values) != 3 or len(stats.mean) != 3):
        stats = None
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
    chosen = [band - 1 for band in bands]
    values, missing = raster.values[chosen], raster.missing[chosen]
    if values.ndim == 4:
        values, missing = values[:, 0], missing[:, 0]
    highest = raster.white or infer_full_scale(values, missing) if len(raster.values) <= 3 else None
    levels = [_compute_levels(band, absent, highest) for band, absent in zip(values, missing, strict=True)]
    picture = np.stack(levels if len(levels) == 3 else levels * 3, axis=-1)
    picture[missing.any(axis=0)] = NO_DATA_COLOUR
    return picture


def _compute_levels(band: Array, missing: Array, highest: int | None) -> NDArray[np.uint8]:
    present = band[~missing].astype(np.float64)
    low, high = (0, highest) if highest is not None else np.percentile(present, [2, 98]) if present.size else (0, 1)
    numbers = np.where(missing, low, band).astype(np.float64)
    positions = (numbers - low) / (high - low) if high > low else np.full(band.shape, 0.5)
    levels: NDArray[np.uint8] = (np.clip(positions, 0, 1) * 255).round().astype(np.uint8)
    return levels
