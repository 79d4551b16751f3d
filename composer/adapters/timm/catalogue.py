"""The catalogue: the features of every network in one version of timm."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from math import lcm
from pathlib import Path
from types import MappingProxyType
from typing import Any

from attrs import evolve, field, frozen
from attrs.converters import optional

from composer.adapters.rejections import normalize_indices, reject_network
from composer.errors import suggest
from composer.layouts import MAP, TOKENS, Feature
from composer.parts import EncoderInfo, Timm
from composer.parts.rules import Rejection
from composer.sizes import SizeConstraint

CATALOGUE = Path(__file__).with_name("timm.jsonl")
"""The file that the census writes: the version of timm, then a line for each network with its name and its entry."""


@frozen
class WeightsInfo:
    """The image size that weights were trained with, and the mean and standard deviation of the bands in 0..1."""

    size: tuple[int, int] = field(converter=tuple)
    mean: tuple[float, ...] = field(converter=tuple[float, ...])
    std: tuple[float, ...] = field(converter=tuple[float, ...])


@frozen(kw_only=True)
class Level:
    """A level of a network, and the image sizes at which the network computes it and all levels before it.

    `stride` is exact for images whose sides are multiples of `multiple` and at least `least`. Where these are None, the
    level is exact at no multiple. It then has an `offset`, as every level of such a network has, and holds from a side
    of `shortest` on, as do all levels requested with it. Without an offset, the network takes one size for this level,
    and is exact at that one.
    """

    channels: int
    stride: Fraction = field(converter=Fraction)
    multiple: int | None
    least: int | None
    offset: int | None = None
    shortest: int | None = None


@frozen(kw_only=True)
class Entry:
    """The info of a network as timm makes it by default.

    `family` is its module in timm, `default` are the levels that timm returns by default. `sizes` is how the network
    takes images of other sizes: `any`, by the switch `dynamic_img_size` or `strict_img_size`, `img_size` (built for
    each), or `fixed` (not at all). `prefix` is the number of tokens before those of the image, None without tokens.
    `any_channels` is true where the stem can be made for any number of bands. `wrapper` is the layout of timm's own
    wrapper, `features_only`; None where its levels differ from the network's. `usual` is the default size and
    normalization, `weights` those of each published set, by tag. `dilated` are the values of `output_stride` that only
    lower larger strides to that value. `rebuilt` is the multiple of which the sides of `img_size` may be, where the
    strides then stay the same.
    """

    family: str
    levels: tuple[Level, ...] = field(converter=tuple[Level, ...])
    default: tuple[int, ...] = field(converter=tuple[int, ...])
    sizes: str
    prefix: int | None
    any_channels: bool
    wrapper: str | None
    patch: tuple[int, int] | None = field(converter=optional(tuple))
    parameters: int
    usual: WeightsInfo
    weights: Mapping[str, WeightsInfo]
    dilated: tuple[int, ...] = field(default=(), converter=tuple[int, ...])
    rebuilt: int | None = None


@cache
def _read_catalogue_lines() -> Mapping[str, str]:
    """Read the lines of the file by their first string; empty without the file, so that a census can start anew.

    A line is parsed when its network is looked up: parsing all would take a tenth of the time of a check.
    """
    try:
        lines = CATALOGUE.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    return {line.split('"', 2)[1]: line for line in lines}


def get_catalogue_version() -> str | None:
    """Return the version of timm that was measured."""
    first = next(iter(_read_catalogue_lines().values()), None)
    version: str | None = None if first is None else json.loads(first)[1]
    return version


@cache
def list_networks() -> tuple[str, ...]:
    """List all networks of that version, in timm's own order."""
    return tuple(_read_catalogue_lines())[1:]


@cache
def find_entry(name: str) -> Entry | None:
    """Return the entry of a network, by its name without a tag; None where it has to be probed."""
    line = _read_catalogue_lines().get(name) if name in list_networks() else None
    data = None if line is None else json.loads(line)[1]
    return None if data is None else _parse_entry(data)


_LEVEL_COLUMNS = {
    "channels": "channels",
    "stride": "strides",
    "multiple": "multiples",
    "least": "least",
    "offset": "offsets",
    "shortest": "shortest",
}
"""The fields of a level, each with the name of its column in the file."""


def _parse_entry(data: dict[str, Any]) -> Entry:
    absent = [None] * len(data["channels"])
    rows = zip(*(data.pop(column, None) or absent for column in _LEVEL_COLUMNS.values()), strict=True)
    levels = [Level(**dict(zip(_LEVEL_COLUMNS, row, strict=True))) for row in rows]
    weights = {tag: WeightsInfo(*info) for tag, info in data.pop("weights").items()}
    return Entry(levels=levels, usual=WeightsInfo(*data.pop("usual")), weights=weights, **data)


def reject_unknown_network(name: str, version: str, names: Sequence[str]) -> Rejection:
    """Reject a name that `version` of timm does not have; `names` are those that may have been meant."""
    plain = strip_hub(name).removeprefix("timm/")
    exists = plain != name and plain.partition(".")[0] in names
    fix = f"did you mean timm/{plain}?" if exists else suggest(plain, names)
    return reject_network("is not a network of timm", version, fix)


def reject_unknown_tag(name: str, version: str, tags: Sequence[str]) -> Rejection:
    """Reject a name whose network `version` of timm has, and whose tag it does not; `tags` are those it has."""
    network, _, tag = name.partition(".")
    known = f"use one of its tags: {', '.join(tags)}; or none: " if tags else "leave the tag out: "
    return reject_network(f"has no weights with the tag {tag}", version, f"{known}timm/{network}")


def strip_hub(name: str) -> str:
    """Return a name without the address of the Hugging Face Hub before it: `timm/resnet50.a1_in1k`."""
    return re.sub(r"^(hf[-_]hub:|hf://|(https?://)?(huggingface\.co|hf\.co)/)", "", name)


SWITCHES: Mapping[str, Mapping[str, bool]] = MappingProxyType(
    {"dynamic_img_size": {"dynamic_img_size": True}, "strict_img_size": {"strict_img_size": False}}
)
"""timm's arguments for images of other sizes, by the name of the switch."""


def find_catalogue_info(part: Timm, channels: int) -> EncoderInfo | Rejection | None:
    """Return the info of a network of the catalogue's timm, or its rejection; None where it has to be probed.

    The effect of `out_indices`, `tokens`, `features_only` and the number of bands is arithmetic; that of
    `output_stride` and `img_size` where the census has verified it. Any other argument may change the network itself.
    """
    name = part.name.partition(".")[0]
    version = get_catalogue_version()
    if version is not None and name not in list_networks():
        return reject_unknown_network(part.name, f"timm {version}", [*list_networks(), *_list_tagged_names(name)])
    entry = find_entry(name)
    return None if entry is None else lookup(entry, part, channels)


def _list_tagged_names(start: str) -> list[str]:
    """List the published weights of networks whose names begin with `start`."""
    return [
        f"{name}.{tag}"
        for name in list_networks()
        if name.startswith(start) and (entry := find_entry(name))
        for tag in entry.weights
    ]


def lookup(entry: Entry, part: Timm, channels: int) -> EncoderInfo | Rejection | None:
    """Return the same as `find_catalogue_info`, from the entry of the network."""
    if part != evolve(part, norm=False, any_size=False, options=()):
        return None
    tag = part.name.partition(".")[2]
    weights = entry.weights.get(tag) if tag else entry.usual
    if weights is None or not _is_applicable(entry, part, channels, weights):
        return None
    indices = entry.default if part.out_indices is None else normalize_indices(part.out_indices, len(entry.levels))
    return indices if isinstance(indices, Rejection) else _build_catalogue_info(entry, part, channels, weights, indices)


def _is_applicable(entry: Entry, part: Timm, channels: int, weights: WeightsInfo) -> bool:
    """Return True where the entry holds for this declaration too."""
    if channels != 3 and not entry.any_channels:
        return False
    if (part.tokens and entry.prefix is None) or (part.features_only and entry.wrapper is None):
        return False
    if part.output_stride is not None and part.output_stride not in entry.dilated:
        return False
    if part.img_size is not None and part.img_size != entry.usual.size:
        step = _find_size_multiple(entry)
        return step is not None and all(side % step == 0 for side in part.img_size)
    # timm builds a fixed-size network for the size of its weights.
    is_flexible = not any(map(_is_fixed_size, entry.levels))
    return part.img_size is not None or weights.size == entry.usual.size or is_flexible


def _find_size_multiple(entry: Entry) -> int | None:
    """Return the multiple that the sides of `img_size` need for unchanged levels; None where it is unknown.

    In a plain ViT with `dynamic_img_size`, only the position embedding depends on the image size.
    """
    if entry.sizes == "dynamic_img_size" and entry.prefix is not None:
        return lcm(*(level.multiple or 1 for level in entry.levels))
    return entry.rebuilt


def _build_catalogue_info(
    entry: Entry, part: Timm, channels: int, weights: WeightsInfo, indices: tuple[int, ...]
) -> EncoderInfo:
    picked = [_limit_stride(entry.levels[index], part.output_stride) for index in indices]
    axes = entry.wrapper if part.features_only else None
    sizes = compute_level_sizes(picked, part.img_size or entry.usual.size)
    features = [Feature(channels=level.channels, stride=level.stride, axes=axes or MAP) for level in picked]
    if any(level.multiple is None for level in picked) and sizes.height is None:
        offsets = [level.offset or 0 for level in picked]
        features = [evolve(f, rounding="floor", offset=offset) for f, offset in zip(features, offsets, strict=True)]
    if part.tokens:
        assert entry.prefix is not None
        features = [evolve(f, axes=TOKENS, prefix=entry.prefix) for f in features]
    return EncoderInfo(
        features=features,
        channels=channels,
        sizes=sizes,
        arguments={
            **SWITCHES.get(entry.sizes, {}),
            **({} if part.img_size is None else {"img_size": part.img_size}),
            "out_indices": indices,
        },
        mean=weights.mean,
        std=weights.std,
        patch=entry.patch,
        levels=len(entry.levels),
    )


def _limit_stride(level: Level, stride: int | None) -> Level:
    """Return a level of a network whose strides are at most `output_stride`."""
    if stride is None or level.stride <= stride:
        return level
    sides = [None if side is None else min(side, stride) for side in (level.multiple, level.least)]
    return evolve(level, stride=Fraction(stride), multiple=sides[0], least=sides[1])


def compute_level_sizes(picked: list[Level], usual: tuple[int, int]) -> SizeConstraint:
    """Return the sizes at which these levels are exact: multiples of all their strides and of what the network needs.

    Where a level is exact at no multiple, the sizes from which all offsets hold. A network is cut off behind the
    deepest level requested, so that level decides on the sizes at which it runs.
    """
    if any(map(_is_fixed_size, picked)):
        return SizeConstraint(height=usual[0], width=usual[1])
    needs = [level.multiple for level in picked]
    if any(multiple is None for multiple in needs):
        return SizeConstraint(least=max(level.shortest or 1 for level in picked))
    multiple = lcm(*(need for need in needs if need is not None))
    least = max(level.least or 1 for level in picked)
    return SizeConstraint(multiple=multiple, least=multiple * -(-least // multiple))


def _is_fixed_size(level: Level) -> bool:
    return level.multiple is None and level.offset is None
