"""The catalogue: what every network of one version of timm emits."""

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

from attrs import evolve, frozen

from composer.errors import suggest
from composer.layouts import MAP, TOKENS, Feature
from composer.parts import EncoderInfo, Timm
from composer.parts.rules import Rejection
from composer.sizes import SizeConstraint

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


def reject_unknown_network(name: str, version: str, names: Sequence[str]) -> Rejection:
    """A name that `version` of timm does not know; `names` are those that may have been meant."""
    plain = strip_hub(name).removeprefix("timm/")
    return Rejection(
        code="network",
        kind="raises",
        expected="is not a network of timm",
        got=version,
        repair=f"did you mean timm/{plain}?"
        if plain.partition(".")[0] in names and plain != name
        else suggest(plain, names),
    )


def reject_unknown_tag(name: str, version: str, tags: Sequence[str]) -> Rejection:
    """A name whose network `version` of timm knows, and whose tag it does not; `tags` are those that it knows."""
    network, _, tag = name.partition(".")
    known = f"use one of its tags: {', '.join(tags)}; or none: " if tags else "leave the tag out: "
    return Rejection(
        code="network",
        kind="raises",
        expected=f"has no weights with the tag {tag}",
        got=version,
        repair=f"{known}timm/{network}",
    )


def strip_hub(name: str) -> str:
    """Return a name without the address of the Hugging Face Hub before it: `timm/resnet50.a1_in1k`."""
    return re.sub(r"^(hf[-_]hub:|hf://|(https?://)?(huggingface\.co|hf\.co)/)", "", name)


def normalize_indices(out_indices: tuple[int, ...], count: int) -> tuple[int, ...] | Rejection:
    """The levels asked for of `count`, counted from 0; refused where one is not there, or they are out of order."""
    for position, index in enumerate(out_indices):
        if not -count <= index < count:
            return _reject_level(position, index, count)
    indices = tuple(index % count for index in out_indices)
    if list(indices) != sorted(set(indices)):
        return _reject_order(out_indices, sorted(set(indices)))
    return indices


def _reject_level(position: int, index: int, count: int) -> Rejection:
    return Rejection(
        code="index",
        kind="raises",
        expected=f"has levels 0 to {count - 1}",
        got=f"level {index}",
        repair=f"use out_indices from {-count} to {count - 1}",
        about=f"out_indices[{position}]",
    )


def _reject_order(out_indices: tuple[int, ...], ordered: list[int]) -> Rejection:
    return Rejection(
        code="order",
        kind="wrong_output",
        expected="gives its levels in its own order, each once",
        got=f"out_indices {list(out_indices)}",
        repair=f"out_indices: {ordered}, and SelectIndices for another order",
        about="out_indices",
    )


SWITCHES: Mapping[str, Mapping[str, bool]] = MappingProxyType(
    {"dynamic_img_size": {"dynamic_img_size": True}, "strict_img_size": {"strict_img_size": False}}
)
"""timm's switches for images of other sizes, as they are turned."""


def find_catalogue_info(part: Timm, channels: int) -> EncoderInfo | Rejection | None:
    """The facts of a network of the catalogue's timm, or why there are none; None where the network must be asked.

    What arguments do to it is arithmetic for `out_indices`, `tokens`, `features_only` and the number of bands, and for
    `output_stride` and `img_size` where the census has seen it so. Any other may change what the network is.
    """
    name = part.name.partition(".")[0]
    if get_catalogue_version() is not None and name not in list_networks():
        return reject_unknown_network(
            part.name, f"timm {get_catalogue_version()}", [*list_networks(), *_list_tagged_names(name)]
        )
    one = find_entry(name)
    return None if one is None else lookup(one, part, channels)


def _list_tagged_names(start: str) -> list[str]:
    """The published weights of networks whose names begin so."""
    return [
        f"{name}.{tag}"
        for name in list_networks()
        if name.startswith(start) and (one := find_entry(name))
        for tag in one.weights
    ]


def lookup(one: Entry, part: Timm, channels: int) -> EncoderInfo | Rejection | None:
    """The same of an entry that is at hand."""
    if part != evolve(part, norm=False, any_size=False, options=()):
        return None
    tag = part.name.partition(".")[2]
    weights = one.weights.get(tag) if tag else one.usual
    if weights is None or not _is_applicable(one, part, channels, weights):
        return None
    indices = one.default if part.out_indices is None else normalize_indices(part.out_indices, len(one.levels))
    return indices if isinstance(indices, Rejection) else _build_catalogue_info(one, part, channels, weights, indices)


def _is_applicable(one: Entry, part: Timm, channels: int, weights: WeightsInfo) -> bool:
    """Whether what the entry says holds for this declaration too."""
    if channels != 3 and not one.any_channels:
        return False
    if (part.tokens and one.prefix is None) or (part.features_only and one.wrapper is None):
        return False
    if part.output_stride is not None and part.output_stride not in one.dilated:
        return False
    if part.img_size is not None and part.img_size != one.usual.size:
        step = _find_size_multiple(one)
        return step is not None and all(side % step == 0 for side in part.img_size)
    # timm makes a network of one size for that of its weights.
    of_any_size = not any(map(_is_fixed_size, one.levels))
    return part.img_size is not None or weights.size == one.usual.size or of_any_size


def _find_size_multiple(one: Entry) -> int | None:
    """Return of what the sides of `img_size` may be multiples such that the levels stay what they are; None if unknown.

    A plain ViT with `dynamic_img_size` is made for a size by its position embedding alone.
    """
    if one.sizes == "dynamic_img_size" and one.prefix is not None:
        return lcm(*(level.multiple or 1 for level in one.levels))
    return one.rebuilt


def _build_catalogue_info(
    one: Entry, part: Timm, channels: int, weights: WeightsInfo, indices: tuple[int, ...]
) -> EncoderInfo:
    picked = [_limit_stride(one.levels[index], part.output_stride) for index in indices]
    axes = one.wrapper if part.features_only else None
    sizes = compute_level_sizes(picked, part.img_size or one.usual.size)
    features = [Feature(channels=level.channels, stride=level.stride, axes=axes or MAP) for level in picked]
    if any(level.multiple is None for level in picked) and sizes.height is None:
        offsets = [level.offset or 0 for level in picked]
        features = [evolve(f, rounding="floor", offset=offset) for f, offset in zip(features, offsets, strict=True)]
    if part.tokens:
        assert one.prefix is not None
        features = [evolve(f, axes=TOKENS, prefix=one.prefix) for f in features]
    return EncoderInfo(
        features=features,
        channels=channels,
        sizes=sizes,
        arguments={
            **SWITCHES.get(one.sizes, {}),
            **({} if part.img_size is None else {"img_size": part.img_size}),
            "out_indices": indices,
        },
        mean=weights.mean,
        std=weights.std,
        patch=one.patch,
        levels=len(one.levels),
    )


def _limit_stride(level: Level, stride: int | None) -> Level:
    """A level of a network whose strides go no further than `output_stride`."""
    if stride is None or level.stride <= stride:
        return level
    sides = [None if side is None else min(side, stride) for side in (level.multiple, level.least)]
    return evolve(level, stride=Fraction(stride), multiple=sides[0], least=sides[1])


def compute_level_sizes(picked: list[Level], usual: tuple[int, int]) -> SizeConstraint:
    """The sizes at which a network gives these levels exactly: at multiples of all their strides, as often as it needs.
    Where one is exact at no multiple, those at which all have the cells that their offsets say.

    A network is cut off behind the deepest level asked for, so that one decides on the sizes at which it runs.
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
