"""Choose the bands of an image for an input of a model, and those to draw."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from attrs import field, frozen

from composer.bands import RGB, find_band
from composer.cli.terminal import UsageError
from composer.layouts import Image, format_count

Bands = tuple[int, ...]
"""Bands of a file, counted from 1."""


@frozen(eq=False)
class Raster:
    """An image as its file holds it, and remarks on how it was converted.

    `values` are (band, height, width), or (band, frame, height, width), in the type of the file. Those that are not
    finite, transparent, or declared as no data are masked. `bands` are the common names of the bands, as far as the
    file has them.
    """

    file: str
    values: np.ma.MaskedArray[Any, Any]
    remarks: tuple[str, ...] = field(default=(), converter=tuple[str, ...])
    bands: tuple[str | None, ...] = field(default=(), converter=tuple[str | None, ...])


def split_by_input(values: Sequence[str], inputs: Collection[str], option: str) -> dict[str, str]:
    """Map inputs to values: `["s2=a.tif", "s1=b.tif"]`. A bare value belongs to the only input.

    Raises UsageError for unknown and repeated inputs.
    """
    first, *others = inputs
    by_input: dict[str, str] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or name not in inputs:
            if others:
                names = ", ".join(inputs)
                raise UsageError(f"{option} {text}: the model has the inputs {names}; say which: {option} {first}=…")
            name, value = first, text
        if name in by_input:
            raise UsageError(f"{option}: {name} is given twice, {by_input[name]} and {value}.")
        by_input[name] = value
    return by_input


def _format_bands(bands: Sequence[int]) -> str:
    return ",".join(map(str, bands))


def _find_numbers(raster: Raster, bands: Sequence[str], counts: Collection[int], option: str) -> Bands:
    """Return the numbers of bands, from numbers or names. Raises UsageError for others than the file has."""
    numbers: list[int] = []
    for band in bands:
        names = (number for number, name in enumerate(raster.bands, 1) if name is not None and name == find_band(band))
        found = [int(band)] if re.fullmatch(r"[1-9]\d{0,4}", band) else list(names)
        if len(found) != 1:
            problem = f"has {band} as bands {_format_bands(found)}" if found else f"has no band {band!r}"
            listed = ", ".join(filter(None, raster.bands)) or "without names"
            step = f"pick bands by number, from 1 and with commas: {option if option[0] == '-' else '--bands'} 4,3,2"
            raise UsageError(f"{option}: {raster.file} {problem} (its bands: {listed}); {step}.")
        numbers += found
    count = len(raster.values)
    if len(numbers) not in counts or max(numbers) > count:
        expected = f"{' or '.join(map(str, counts))} of the {format_count(count, 'band')} of {raster.file}"
        raise UsageError(f"{option}: expected {expected}, counted from 1 (got {_format_bands(numbers)}).")
    return tuple(numbers)


def select_bands(raster: Raster, name: str, image: Image, bands: str | None) -> tuple[Bands, str | None]:
    """Return the bands for input `name`, and a remark on them. Raises UsageError where they do not fit.

    `bands` are numbers or names, `4,3,2` or `RED,GREEN,BLUE`. Without them, the bands are those that the input names,
    or all bands where the file or the input has no names.
    """
    count, channels, names = len(raster.values), image.channels, ", ".join(image.bands or ())
    if bands is not None or (image.bands and any(raster.bands)):
        wanted = image.bands or () if bands is None else bands.split(",")
        numbers = _find_numbers(raster, wanted, (channels,), f"input {name!r}" if bands is None else "--bands")
        return numbers, f"bands {_format_bands(numbers)} of {count}"
    if count == channels:
        return tuple(range(1, count + 1)), f"bands without names, taken for {names}" if names else None
    if count == 1 and channels == 3 and raster.values.ndim == 3:
        return (1, 1, 1), "one grey band, used for all three channels"
    example = _format_bands(range(1, channels + 1))
    step = f"pick them with --bands, counted from 1: --bands {example}" if count > channels else "use another image"
    needed = f"{format_count(channels, 'band')}{names and f', {names}'}"
    raise UsageError(f"{raster.file}: input {name!r} expects {needed}; the file has {count}; {step}.")


def select_preview_bands(
    raster: Raster, used: Bands, names: Sequence[str] | None, bands: str | None
) -> tuple[Bands, str | None]:
    """Return one band (grey) or three (red, green, blue) to draw, and a remark where they are a guess.

    Without `names` of more than three `used` bands, the third, second and first are a guess, as for Landsat and
    Sentinel-2.
    """
    if bands is not None:
        return _find_numbers(raster, bands.split(","), (1, 3), "--show-bands"), None
    names = names or [raster.bands[number - 1] or "" for number in used if raster.bands]
    if {*RGB} <= {*names}:
        return tuple(used[names.index(band)] for band in RGB), None
    guess = used if len(used) == 3 else used[2::-1] if len(used) > 3 else used[:1]
    remark = f"bands drawn: {_format_bands(guess)}, a guess; choose others with --show-bands"
    return guess, None if guess == used else remark
