"""The entries of the catalogue, and the file they are in. No torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from attrs import frozen

CATALOGUE = Path(__file__).with_name("timm.jsonl")
"""The file that the census writes: the version of timm, then a line for each network, of its name and its entry."""


@frozen
class WeightsInfo:
    """What weights were trained for: the size of images, and the mean and standard deviation of the bands in 0..1."""

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@frozen(kw_only=True)
class Level:
    """A level of a network, and what the network needs so as to give it and all levels before it.

    `stride` is exact for images whose sides are multiples of `multiple` and at least `least`. Where these are None, the
    level is exact at no multiple. It then has an `offset`, as every level of such a network has, and is counted with it
    from a side of `shortest` on, as are all those that are asked for beside it. Where there is none, the network takes
    one size for this level, and at that one it is exact.
    """

    channels: int
    stride: Fraction
    multiple: int | None
    least: int | None
    offset: int | None = None
    shortest: int | None = None


@frozen(kw_only=True)
class Entry:
    """What is known of a network as timm makes it by default.

    `family` is the module of timm that it is of, `default` are the levels that timm gives by itself. `sizes` is how
    the network takes images of other sizes: `any`, by the switch `dynamic_img_size` or `strict_img_size`,
    `img_size` (built for each), or `fixed` (not at all). `prefix` is how many tokens stand before those of the
    image, None where it cannot give its tokens. `any_channels` says that its stem is made for any number of bands.
    `wrapper` is the layout of timm's own wrapper, `features_only`; None where that gives something else than the
    network does. `usual` is what it was made for, and `weights` what each of the published ones was, by tag.
    `dilated` are the values of `output_stride` that keep each stride below them and bring each above them down to
    them, and nothing else. `rebuilt` is the multiple of which the sides of `img_size` may be, where the strides
    then stay what they are.
    """

    family: str
    levels: tuple[Level, ...]
    default: tuple[int, ...]
    sizes: str
    prefix: int | None
    any_channels: bool
    wrapper: str | None
    patch: tuple[int, int] | None
    parameters: int
    usual: WeightsInfo
    weights: Mapping[str, WeightsInfo]
    dilated: tuple[int, ...] = ()
    rebuilt: int | None = None


@cache
def _read_catalogue_lines() -> Mapping[str, str]:
    """The file by what its lines begin with; empty where there is none, so that the catalogue can be made anew.

    A line is parsed when it is asked for: all of them take a tenth of the time that a check may take.
    """
    try:
        lines = CATALOGUE.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    return {line.split('"', 2)[1]: line for line in lines}


def get_catalogue_version() -> str | None:
    """The version of timm that the catalogue is of."""
    first = next(iter(_read_catalogue_lines().values()), None)
    version: str | None = None if first is None else json.loads(first)[1]
    return version


@cache
def list_networks() -> tuple[str, ...]:
    """All networks of that version, in timm's own order. A few have no entry."""
    return tuple(_read_catalogue_lines())[1:]


@cache
def find_entry(name: str) -> Entry | None:
    """What is known of a network, by its name without a tag; None where it must be asked itself."""
    line = _read_catalogue_lines().get(name) if name in list_networks() else None
    data = None if line is None else json.loads(line)[1]
    return None if data is None else from_plain(data)


def format_catalogue(version: str, entries: Mapping[str, Mapping[str, Any] | None]) -> str:
    """The catalogue as a text: what `plain` made of each network, and null for one that must be asked itself."""
    lines = [["timm", version], *([name, data] for name, data in entries.items())]
    return "".join(f"{json.dumps(line)}\n" for line in lines)


def to_plain(one: Entry) -> dict[str, Any]:
    """An entry as lists and numbers, the levels as columns."""
    return {
        "family": one.family,
        "channels": [level.channels for level in one.levels],
        "strides": [_dump_stride(level.stride) for level in one.levels],
        "multiples": [level.multiple for level in one.levels],
        "least": [level.least for level in one.levels],
        **_build_offset_columns(one),
        "default": one.default,
        "sizes": one.sizes,
        "prefix": one.prefix,
        "any_channels": one.any_channels,
        "wrapper": one.wrapper,
        "patch": one.patch,
        "parameters": one.parameters,
        "usual": _dump_weights(one.usual),
        "weights": {tag: _dump_weights(weights) for tag, weights in one.weights.items()},
        "dilated": one.dilated,
        "rebuilt": one.rebuilt,
    }


def from_plain(data: Mapping[str, Any]) -> Entry:
    """The entry that `plain` wrote."""
    strides = map(Fraction, data["strides"])
    none = [None] * len(data["channels"])
    offsets = (data.get("offsets") or none, data.get("shortest") or none)
    columns = (data["channels"], strides, data["multiples"], data["least"], *offsets)
    return Entry(
        family=data["family"],
        levels=tuple(
            Level(channels=channels, stride=stride, multiple=multiple, least=least, offset=offset, shortest=shortest)
            for channels, stride, multiple, least, offset, shortest in zip(*columns, strict=True)
        ),
        default=tuple(data["default"]),
        sizes=data["sizes"],
        prefix=data["prefix"],
        any_channels=data["any_channels"],
        wrapper=data["wrapper"],
        patch=_parse_size(data["patch"]),
        parameters=data["parameters"],
        usual=_parse_weights(data["usual"]),
        weights={tag: _parse_weights(weights) for tag, weights in data["weights"].items()},
        dilated=tuple(data.get("dilated") or ()),
        rebuilt=data.get("rebuilt"),
    )


def _build_offset_columns(one: Entry) -> dict[str, Any]:
    if all(level.offset is None for level in one.levels):
        return {}
    return {
        "offsets": [level.offset for level in one.levels],
        "shortest": [level.shortest for level in one.levels],
    }


def _dump_stride(stride: Fraction) -> int | str:
    return stride.numerator if stride.denominator == 1 else str(stride)


def _dump_weights(weights: WeightsInfo) -> list[Any]:
    return [list(weights.size), list(weights.mean), list(weights.std)]


def _parse_weights(data: list[Any]) -> WeightsInfo:
    size, mean, std = data
    return WeightsInfo((size[0], size[1]), tuple(mean), tuple(std))


def _parse_size(sides: list[int] | None) -> tuple[int, int] | None:
    return None if sides is None else (sides[0], sides[1])
