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

from composer.adapters.rejections import normalize_indices, reject_network
from composer.errors import suggest
from composer.layouts import MAP, TOKENS, Feature
from composer.parts import EncoderInfo, Timm
from composer.parts.rules import Rejection
from composer.sizes import SizeConstraint

CATALOGUE = Path(__file__).with_name("timm.jsonl")
"""The file that the census writes: the version of timm, then a line for each network with its name and its entry."""

Entry = Mapping[str, Any]
"""The info of a network as timm makes it by default: what its line in the file holds.

`family` is its module in timm, `default` are the levels that timm returns by default. `sizes` is how the network takes
images of other sizes: `any`, by the switch `dynamic_img_size` or `strict_img_size`, `img_size` (built for each), or
`fixed` (not at all). `prefix` is the number of tokens before those of the image, null without tokens. `any_channels` is
true where the stem can be made for any number of bands. `wrapper` is the layout of timm's own wrapper, `features_only`;
null where its levels differ from the network's. `usual` is the default image size and the mean and standard deviation
of the bands in 0..1, `weights` those of each published set, by tag. `dilated` are the values of `output_stride` that
only lower larger strides to that value. `rebuilt` is the multiple of which the sides of `img_size` may be, where the
strides then stay the same; some entries lack these two. `LEVEL_COLUMNS` are lists with an item for each level.
"""

LEVEL_COLUMNS = ("channels", "strides", "multiples", "least", "offsets", "shortest")
"""The names of the fields of a `Level` in an entry. Most networks lack the last two."""


@frozen
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
    offset: int | None
    shortest: int | None

    @property
    def has_fixed_size(self) -> bool:
        """True where the network takes one size for this level."""
        return self.multiple is None and self.offset is None


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
    entry: Entry | None = json.loads(_read_catalogue_lines()[name])[1] if name in list_networks() else None
    return entry


def read_levels(entry: Entry) -> tuple[Level, ...]:
    """Return the levels of an entry."""
    absent = [None] * len(entry["channels"])
    return tuple(Level(*row) for row in zip(*(entry.get(column) or absent for column in LEVEL_COLUMNS), strict=True))


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
        longer = [known for known in list_networks() if known.startswith(name)]
        tagged = [f"{known}.{tag}" for known in longer for tag in (find_entry(known) or {"weights": ()})["weights"]]
        return reject_unknown_network(part.name, f"timm {version}", [*list_networks(), *tagged])
    entry = find_entry(name)
    return None if entry is None else lookup(entry, part, channels)


def lookup(entry: Entry, part: Timm, channels: int) -> EncoderInfo | Rejection | None:
    """Return the same as `find_catalogue_info`, from the entry of the network."""
    tag = part.name.partition(".")[2]
    weights = entry["weights"].get(tag) if tag else entry["usual"]
    levels = read_levels(entry)
    if weights is None or not _is_applicable(entry, levels, part, channels, tuple(weights[0])):
        return None
    indices = entry["default"] if part.out_indices is None else normalize_indices(part.out_indices, len(levels))
    if isinstance(indices, Rejection):
        return indices
    picked = [_limit_stride(levels[index], part.output_stride) for index in indices]
    axes = entry["wrapper"] if part.features_only else TOKENS if part.tokens else MAP
    sizes = _compute_sizes(picked, part.img_size or tuple(entry["usual"][0]))
    features = [Feature(channels=level.channels, stride=level.stride, axes=axes) for level in picked]
    if any(level.multiple is None for level in picked) and sizes.height is None:
        offsets = [level.offset or 0 for level in picked]
        features = [evolve(f, rounding="floor", offset=offset) for f, offset in zip(features, offsets, strict=True)]
    if part.tokens:
        features = [evolve(f, prefix=entry["prefix"]) for f in features]
    return EncoderInfo(
        features=features,
        channels=channels,
        sizes=sizes,
        arguments={
            **SWITCHES.get(entry["sizes"], {}),
            **({} if part.img_size is None else {"img_size": part.img_size}),
            "out_indices": tuple(indices),
        },
        mean=tuple(weights[1]),
        std=tuple(weights[2]),
        patch=None if entry["patch"] is None else tuple(entry["patch"]),
        levels=len(levels),
    )


def _is_applicable(entry: Entry, levels: Sequence[Level], part: Timm, channels: int, own_size: tuple[int, int]) -> bool:
    """Return True where the entry holds for this declaration too; `own_size` is the size of its weights."""
    if part != evolve(part, norm=False, any_size=False, options=()):
        return False
    if channels != 3 and not entry["any_channels"]:
        return False
    if (part.tokens and entry["prefix"] is None) or (part.features_only and entry["wrapper"] is None):
        return False
    if part.output_stride is not None and part.output_stride not in entry.get("dilated", ()):
        return False
    usual = tuple(entry["usual"][0])
    if part.img_size in (None, usual):
        # timm builds a fixed-size network for the size of its weights.
        is_fixed = any(level.has_fixed_size for level in levels)
        return part.img_size is not None or own_size == usual or not is_fixed
    step = entry.get("rebuilt")
    if entry["sizes"] == "dynamic_img_size" and entry["prefix"] is not None:
        # In a plain ViT with this switch, only the position embedding depends on the image size.
        step = lcm(*(level.multiple or 1 for level in levels))
    return step is not None and all(side % step == 0 for side in part.img_size)


def _limit_stride(level: Level, stride: int | None) -> Level:
    """Return a level of a network whose strides are at most `output_stride`."""
    if stride is None or level.stride <= stride:
        return level
    sides = [None if side is None else min(side, stride) for side in (level.multiple, level.least)]
    return evolve(level, stride=Fraction(stride), multiple=sides[0], least=sides[1])


def _compute_sizes(picked: Sequence[Level], usual: tuple[int, int]) -> SizeConstraint:
    """Return the sizes at which these levels are exact: multiples of all their strides and of what the network needs.

    Where a level is exact at no multiple, the sizes from which all offsets hold. A network is cut off behind the
    deepest level requested, so that level decides on the sizes at which it runs.
    """
    if any(level.has_fixed_size for level in picked):
        return SizeConstraint(height=usual[0], width=usual[1])
    needs = [level.multiple for level in picked]
    if any(multiple is None for multiple in needs):
        return SizeConstraint(least=max(level.shortest or 1 for level in picked))
    multiple = lcm(*(need for need in needs if need is not None))
    least = max(level.least or 1 for level in picked)
    return SizeConstraint(multiple=multiple, least=multiple * -(-least // multiple))
