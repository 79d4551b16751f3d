"""Which image goes into which input of a graph, in which bands, and whether the sizes fit. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from composer.commands.bands import Bands, parse_bands, select_bands, select_preview_bands
from composer.commands.images import read_raster
from composer.commands.normalising import PretrainedStats, normalize_bands
from composer.commands.preview import render_preview
from composer.commands.rasters import Raster
from composer.commands.terminal import UsageError
from composer.feature import Image, format_count
from composer.graph import Shared
from composer.typed import TypedGraph, explain_too_large


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
