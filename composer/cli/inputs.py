"""Prepare images as inputs of a model: bands, normalisation, size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from composer.cli.images import Array, Raster, read_raster
from composer.cli.terminal import UsageError
from composer.graph import Shared
from composer.layouts import Image, format_count
from composer.typed_graph import TypedGraph, explain_too_large

Bands = tuple[int, ...]


def parse_bands(text: str) -> Bands:
    """`4,3,2` as (4, 3, 2). Raises ValueError for anything else."""
    found = tuple(int(number) for number in text.split(","))
    if any(number < 1 for number in found):
        raise ValueError(f"bands are counted from 1 (got {text})")
    return found


def select_bands(raster: Raster, name: str, channels: int, asked: Bands | None) -> tuple[Bands, str | None]:
    """The bands that input `name` is fed, and what to say of them. Raises UsageError where they do not fit."""
    count = len(raster.values)
    if asked is not None:
        _check_bands(raster, asked, "--bands")
        if len(asked) != channels:
            raise UsageError(
                f"--bands: the model's {name} takes {_format_band_count(channels)} (got {len(asked)}: {format_bands(asked)})."
            )
        return asked, f"bands {format_bands(asked)} of {count}"
    if count == channels:
        return tuple(range(1, count + 1)), None
    if count == 1 and channels == 3 and raster.values.ndim == 3:
        return (1, 1, 1), "one grey band, given to the model three times"
    example = format_bands(tuple(range(1, channels + 1)))
    step = f"pick them with --bands, counted from 1: --bands {example}" if count > channels else "use another image"
    raise UsageError(
        f"{raster.file}: the model's {name} takes {_format_band_count(channels)}, and this image has {count}; {step}."
    )


def select_preview_bands(raster: Raster, fed: Bands, asked: Bands | None) -> tuple[Bands, str | None]:
    """The bands that stand for red, green and blue (or one, for grey), and what to say of them.

    Of more than three bands, the third, second and first that the model is fed are a guess, and said to be one.
    """
    if asked is not None:
        _check_bands(raster, asked, "--show-bands")
        if len(asked) not in (1, 3):
            raise UsageError(f"--show-bands: one band, or three as red, green and blue (got {format_bands(asked)}).")
        return asked, None
    if len(fed) == 3:
        return fed, None
    if len(fed) < 3:
        return fed[:1], f"band {fed[0]} shown as grey" if len(fed) == 2 else None
    guess = (fed[2], fed[1], fed[0])
    return guess, f"bands {format_bands(guess)} shown as red, green and blue: a guess, --show-bands says otherwise"


def format_bands(bands: Bands) -> str:
    """(4, 3, 2) as `4,3,2`."""
    return ",".join(map(str, bands))


def _check_bands(raster: Raster, asked: Bands, option: str) -> None:
    count = len(raster.values)
    if beyond := [band for band in asked if band > count]:
        raise UsageError(
            f"{option}: {raster.file} has {_format_band_count(count)}, counted from 1 (got {format_bands(tuple(beyond))})."
        )


def _format_band_count(count: int) -> str:
    return "1 band" if count == 1 else f"{count} bands"


@frozen
class PretrainedStats:
    """What the published weights of an encoder expect of red, green and blue in 0..1."""

    encoder: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def normalize_bands(
    values: Array, missing: Array, published: PretrainedStats | None, name: str, white: int | None = None
) -> tuple[Array, str]:
    """Bands (band, …) as float32, and how that was done, in words.

    With `published`, three bands in 0..255, 0..1 or 0..`white` become what those weights expect. Otherwise each band
    gets zero mean and unit deviation over the image. What is missing gets its band's mean, and counts for nothing
    before. Raises UsageError for a band that holds no number at all, or numbers that have no mean.
    """
    highest = white or infer_full_scale(values, missing)
    result = np.empty(values.shape, np.float32)
    as_published = published is not None and len(values) == len(published.mean) == 3 and highest is not None
    for index, (band, absent) in enumerate(zip(values, missing, strict=True)):
        numbers = band.astype(np.float64)
        present = numbers[~absent]
        if not present.size:
            raise UsageError(f"{name}: band {index + 1} of those that the model is fed holds no data at all.")
        with np.errstate(over="ignore"):
            mean, deviation = present.mean(), present.std() or 1.0
        if not (np.isfinite(mean) and np.isfinite(deviation)):
            raise UsageError(
                f"{name}: band {index + 1} holds numbers too large to reckon with, such as {_find_largest(present):g}."
            )
        numbers[absent] = mean
        if as_published:
            assert published is not None
            assert highest is not None
            mean, deviation = published.mean[index] * highest, published.std[index] * highest
        result[index] = (numbers - mean) / deviation
    if not as_published:
        return result, "each band to zero mean and unit deviation over this image"
    assert published is not None
    means, deviations = (", ".join(f"{number:g}" for number in side) for side in (published.mean, published.std))
    return (
        result,
        f"values 0 to {highest}, normalised for {published.encoder}: mean {means}, deviation {deviations}",
    )


def _find_largest(numbers: Array) -> float:
    return float(numbers[np.abs(numbers).argmax()])


def infer_full_scale(values: Array, missing: Array) -> int | None:
    """What the largest brightness is: 255 or 1, as far as the numbers show; None where they are on another scale."""
    if values.dtype == np.uint8:
        return 255
    present = values[~missing]
    if not present.size or present.min() < 0:
        return None
    largest = present.max()
    return 1 if largest <= 1 else 255 if largest <= 255 else None


Colour = tuple[int, int, int]


_CLASS_COLOURS: tuple[Colour, ...] = (
    (62, 95, 138),
    (240, 142, 44),
    (83, 158, 78),
    (214, 69, 75),
    (236, 201, 72),
    (146, 104, 173),
    (99, 194, 199),
    (150, 108, 78),
    (247, 154, 178),
    (57, 57, 63),
    (176, 207, 92),
    (163, 26, 112),
)
"""The first classes, chosen by eye to be told apart. Further ones are found."""


MAX_COLOURS = 256


_BRIGHTNESS = np.array([0.3, 0.59, 0.11])


_RAMP = np.array([(41, 18, 84), (49, 77, 150), (27, 136, 150), (87, 190, 108), (251, 232, 88)], dtype=np.float64)
"""From low to high: ever lighter, so that it also reads in grey."""


NO_DATA_COLOUR: Colour = (205, 205, 205)
"""Where there is no number to show."""


def get_class_colour(index: int) -> Colour:
    """The colour of a class, always the same one for the same index; a colour comes back after 256 classes."""
    return _build_palette()[index % MAX_COLOURS]


@cache
def _build_palette() -> tuple[Colour, ...]:
    """The colours chosen by eye; after them always the one of a grid that is farthest from all those before it."""
    levels = np.linspace(20, 245, 10)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid[grid @ _BRIGHTNESS < 225]  # white is the paper
    chosen = np.array(_CLASS_COLOURS, dtype=np.float64)
    nearest = _compute_colour_distance(grid[:, None], chosen[None]).min(axis=1)
    while len(chosen) < MAX_COLOURS:
        farthest = grid[nearest.argmax()]
        chosen = np.vstack([chosen, farthest])
        nearest = np.minimum(nearest, _compute_colour_distance(grid, farthest))
    return tuple((round(red), round(green), round(blue)) for red, green, blue in chosen.tolist())


def _compute_colour_distance(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """How different colours look, roughly: the eye tells greens apart best."""
    squares: NDArray[Any] = ((one - other) ** 2 * (2, 4, 3)).sum(axis=-1)
    return squares


def render_classes(indices: NDArray[Any]) -> NDArray[np.uint8]:
    """Class indices (height, width) as RGB (height, width, 3)."""
    present, position = np.unique(indices, return_inverse=True)
    table = np.array([get_class_colour(int(index)) for index in present], dtype=np.uint8)
    painted: NDArray[np.uint8] = table[position.reshape(indices.shape)]
    return painted


def render_values(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Numbers of any shape as RGB: the ramp from `low` to `high`, and grey where a number is not finite."""
    finite = np.isfinite(values)
    span = high - low
    places = np.where(finite, values - low, 0) / span if span > 0 else np.zeros(values.shape)
    stops = np.linspace(0, 1, len(_RAMP))
    channels = [np.interp(places, stops, _RAMP[:, channel]) for channel in range(3)]
    painted = np.stack(channels, axis=-1).round().astype(np.uint8)
    painted[~finite] = NO_DATA_COLOUR
    return painted


def render_preview(raster: Raster, bands: Bands) -> NDArray[np.uint8]:
    """One band or three of an image as RGB (height, width, 3); of several frames, the first.

    A picture, of at most three bands in 0..255 or 0..1, is shown as it is. Of anything else each band is stretched
    from its 2nd to its 98th percentile. Grey where a shown band holds no data.
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
    spread = (numbers - low) / (high - low) if high > low else np.full(band.shape, 0.5)
    levels: NDArray[np.uint8] = (np.clip(spread, 0, 1) * 255).round().astype(np.uint8)
    return levels


@frozen(eq=False)
class PreparedInput:
    """An image as an input of the model takes it, without the batch, and as a person sees it."""

    name: str
    file: str
    values: NDArray[Any]
    picture: NDArray[np.uint8]
    remarks: tuple[str, ...]

    @property
    def size(self) -> str:
        """`400 high, 600 wide`."""
        return f"{self.picture.shape[0]} high, {self.picture.shape[1]} wide"


def prepare_inputs(
    typed: TypedGraph, images: Sequence[str], bands: Sequence[str] = (), show_bands: Sequence[str] = ()
) -> tuple[list[PreparedInput], tuple[int, int]]:
    """The inputs of a graph from image files, and the size (height, width) that they come to in reference pixels.

    Each of `images`, `bands` and `show_bands` is a value, or NAME=VALUE where the graph has several inputs. Raises
    UsageError for what does not fit, before anything is computed.
    """
    inputs = dict(typed.graph.inputs)
    files = split_by_input(images, tuple(inputs), "--image")
    if absent := [name for name in inputs if name not in files]:
        raise UsageError(f"--image: there is none for {', '.join(absent)}; add --image {absent[0]}=FILE.")
    picked = _parse_band_options(split_by_input(bands, tuple(inputs), "--bands"), "--bands")
    visible = _parse_band_options(split_by_input(show_bands, tuple(inputs), "--show-bands"), "--show-bands")
    rasters = {
        name: read_raster(files[name], image.channels, image.frames, picked=name in picked)
        for name, image in inputs.items()
    }
    chosen = {
        name: select_bands(rasters[name], name, image.channels, picked.get(name)) for name, image in inputs.items()
    }
    size = compute_reference_size(typed, rasters)
    return [
        _prepare_input(name, rasters[name], *chosen[name], visible.get(name), find_pretrained_stats(typed, name))
        for name in inputs
    ], size


def split_by_input(given: Sequence[str], inputs: Sequence[str], option: str) -> dict[str, str]:
    """`["s2=a.tif", "s1=b.tif"]` by input; a bare value belongs to the only input. Raises UsageError otherwise."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name not in inputs:
            if len(inputs) > 1:
                raise UsageError(
                    f"{option} {text}: the model has the inputs {', '.join(inputs)}; say which: {option} {inputs[0]}=…"
                )
            name, value = inputs[0], text
        if name in found:
            raise UsageError(f"{option}: {name} is given twice, {found[name]} and {value}.")
        found[name] = value
    return found


def _parse_band_options(texts: Mapping[str, str], option: str) -> dict[str, Bands]:
    try:
        return {name: parse_bands(text) for name, text in texts.items()}
    except ValueError:
        given = ", ".join(texts.values())
        raise UsageError(
            f"{option}: numbers with commas between, counted from 1, such as 4,3,2 (got {given})."
        ) from None


def compute_reference_size(typed: TypedGraph, rasters: Mapping[str, Raster]) -> tuple[int, int]:
    """The size that images come to in reference pixels. Raises UsageError where they disagree or are too large."""
    inputs = dict(typed.graph.inputs)
    first, image = typed.graph.inputs[0]
    covered = _compute_covered_size(rasters[first], image)
    for name, other in inputs.items():
        if _compute_covered_size(rasters[name], other) != covered:
            wanted = " × ".join(f"{float(side / other.stride):g}" for side in covered)
            height, width = rasters[name].values.shape[-2:]
            raise UsageError(
                f"{rasters[name].file}: {name} must have {wanted} pixels (height × width), "
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
    """What the encoder that is fed input `name` expects; of several, the first."""
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
    of_bands: str | None,
    visible: Bands | None,
    published: PretrainedStats | None,
) -> PreparedInput:
    chosen = [band - 1 for band in bands]
    missing = raster.missing[chosen]
    values, how = normalize_bands(raster.values[chosen], missing, published, f"{raster.file}: {name}", raster.white)
    looks, of_looks = select_preview_bands(raster, bands, visible)
    remarks = [*raster.remarks, of_bands, how, _describe_missing_pixels(missing), of_looks]
    return PreparedInput(
        name, raster.file, values, render_preview(raster, looks), tuple(remark for remark in remarks if remark)
    )


def _describe_missing_pixels(missing: NDArray[Any]) -> str | None:
    absent = missing.any(axis=0)
    count = int(absent.sum())
    lacking = "holds no data, and gets its" if count == 1 else "hold no data, and get their"
    return f"{count} of {format_count(absent.size, 'pixel')} {lacking} band's mean" if count else None
