"""What the catalogue answers of an encoder. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import lcm
from types import MappingProxyType

from attrs import evolve

from composer.catalogue.entries import Entry, Level, WeightsInfo, find_entry, get_catalogue_version, list_networks
from composer.catalogue.picking import normalize_indices, reject_unknown_network
from composer.contracts.rules import Rejection
from composer.feature import MAP, TOKENS, Feature
from composer.parts import EncoderInfo, Timm
from composer.sizes import SizeConstraint

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
