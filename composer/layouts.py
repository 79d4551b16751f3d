"""Features: the layout, channels and stride of each tensor that flows along an edge, and patterns that change them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from operator import contains
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from attrs import Attribute, field, frozen

Batch = TypeVar("Batch")
Rounding = Literal["exact", "floor", "ceil"]
ROUNDINGS: tuple[Rounding, ...] = ("exact", "floor", "ceil")
MAP = "b c h w"
CHANNELS_LAST = "b h w c"
TOKENS = "b n c"
VECTOR = "b c"

FRAMES = "b c t h w"
"""The layout of an image with frames. Features per frame have the frames behind the batch instead: `"b t …"`."""

MAP_PER_FRAME = "b t c h w"
TOKENS_PER_FRAME = "b t n c"

MAX_BANDS, MAX_FRAMES, MAX_PIXELS = 65_536, 1024, 2**20
"""The channels, frames and pixels per side that an input image may have."""


MAX_ENTRIES = 64
"""The maximum length of a list of whole numbers, such as levels, dilations or widths."""


@frozen
class IntRange:
    """Validate a whole number from `least` to `most`, or a tuple of at most `entries` of them.

    None is valid where it is `optional`.
    """

    least: int = 1
    most: int | None = None
    optional: bool = field(default=False, kw_only=True)
    entries: int = field(default=MAX_ENTRIES, kw_only=True)

    def __call__(self, _: object, attribute: Attribute[Any], value: Any) -> None:
        """Raise ValueError for any other value."""
        if self.holds(value) or (self.optional and value is None):
            return
        # Fields of several numbers have a converter, which makes tuples.
        numbers = value if isinstance(value, tuple) and attribute.converter else (value,)
        if len(numbers) > self.entries:
            raise ValueError(f"{attribute.name} must have at most {self.entries:,} entries (got {len(numbers):,})")
        if wrong := [number for number in numbers if not self.holds(number)]:
            bounds = f"of at least {self.least}" if self.most is None else f"from {self.least} to {self.most}"
            got = ", ".join(map(repr, wrong))
            raise ValueError(f"{attribute.name} must be a whole number {bounds} (got {got})")

    def holds(self, number: Any) -> bool:
        """Return whether a value is a whole number of this range."""
        return type(number) is int and self.least <= number and (self.most is None or number <= self.most)


@frozen
class Choice:
    """Validate one of a closed list of values."""

    known: tuple[Any, ...]

    def __call__(self, _: object, attribute: Attribute[Any], value: Any) -> None:
        """Raise ValueError for any other value."""
        # Compared with their types, because in Python True == 1.
        if not any(type(value) is type(known) and value == known for known in self.known):
            names = ", ".join(
                "null" if known is None else str(known).lower() if isinstance(known, bool) else str(known)
                for known in self.known
            )
            raise ValueError(f"{attribute.name} must be one of {names} (got {value!r})")


def validate_bool(_: object, attribute: Attribute[Any], value: Any) -> None:
    """Raise ValueError for anything but True and False."""
    if type(value) is not bool:
        raise ValueError(f"{attribute.name} must be true or false (got {value!r})")


def parse_stride(value: int | str | Fraction) -> Fraction:
    """Convert `16`, `"3/2"` or a Fraction into an exact, positive Fraction. Raises ValueError for other values."""
    ratio = _parse_ratio(value, "a stride is a whole number or a ratio such as '3/2'")
    if ratio <= 0:
        raise ValueError(f"a stride must be positive (got {value!r})")
    return ratio


def _parse_optional_stride(value: int | str | Fraction | None) -> Fraction | None:
    return None if value is None else parse_stride(value)


def _parse_offset(value: int | str | Fraction) -> int | Fraction:
    """Convert an offset into an int where it is whole, else a Fraction. Raises ValueError for other values."""
    ratio = _parse_ratio(value, "an offset is a whole number of pixels")
    return ratio.numerator if ratio.denominator == 1 else ratio


def _parse_ratio(value: int | str | Fraction, rule: str) -> Fraction:
    text_is_ratio = isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,9}(/[1-9][0-9]{0,8})?", value)
    if not (text_is_ratio or isinstance(value, Fraction) or type(value) is int):
        raise ValueError(f"{rule} (got {value!r})")
    return Fraction(value)


@lru_cache
def _is_layout(axes: str) -> bool:
    names = axes.split(" ")
    spatial = {"h", "w"} & set(names)
    return (
        len(set(names)) == len(names)
        and {"b", "c"} <= set(names) <= set("bchwtn")
        and len(spatial) in (0, 2)
        and not ("n" in names and spatial)
    )


def _validate_axes(_: object, __: Attribute[str], axes: str) -> None:
    if not _is_layout(axes):
        raise ValueError(f"axes must be a layout such as {MAP!r}, {TOKENS!r} or {VECTOR!r} (got {axes!r})")


@frozen(kw_only=True)
class Feature:
    """The type of one tensor: its layout, `channels`, and its grid as a function of the image.

    `axes` is the layout as an einops pattern, in any order: a map `"b c h w"`, a channels-last map
    `"b h w c"`, tokens `"b n c"`, a vector `"b c"`; a map, tokens or a vector per frame `"b t c h w"`, `"b t n c"`,
    `"b t c"`. `stride` is image pixels per cell, per side, so `h = H / stride` and `w = W / stride`; it is None
    for vectors only. `rounding` is how a quotient that is not whole is rounded; `exact` means that the graph's sizes
    exclude such quotients. `prefix` counts the tokens before the grid (class token, registers): `n = prefix + h * w`
    where `t` is a separate axis, and `n = prefix + frames * h * w` where the frames are among the tokens.

    `offset` is 0 for nearly all networks. Unpadded convolutions lose pixels at the borders, and levels that round
    alternately up and down gain some: `h = floor((H - offset) / stride)`, where a gain is a negative offset. It is
    valid with `floor`, and with `exact` as a whole number of strides: `h = H / stride - offset / stride`. `ceil` equals
    `floor` with an offset of `1 - stride`, and takes no offset. The offset only affects the number of cells: output
    that is rescaled to the image's size is stretched over the whole image, as timm's users do.

    Raises ValueError where the fields contradict each other.
    """

    channels: int = field(validator=IntRange())
    stride: Fraction | None = field(default=Fraction(1), converter=_parse_optional_stride)
    axes: str = field(default=MAP, validator=_validate_axes)
    rounding: Rounding = field(default="exact", validator=Choice(ROUNDINGS))
    prefix: int = 0
    frames: int = field(default=1, validator=IntRange())
    offset: int | Fraction = field(default=0, converter=_parse_offset)

    def __attrs_post_init__(self) -> None:
        names = self.axes.split()
        if (self.stride is None) != ("h" not in names and "n" not in names):
            raise ValueError(f"a vector, and only a vector, has no stride (got {self.axes!r}, stride {self.stride})")
        if type(self.prefix) is not int or self.prefix < 0 or (self.prefix and "n" not in names):
            raise ValueError(f"prefix counts tokens before a token grid (got {self.prefix!r} on {self.axes!r})")
        if self.frames > 1 and not {"n", "t"} & set(names):
            raise ValueError(f"frames needs an axis t or n (got {self.frames} on {self.axes!r})")
        if self.offset:
            self._check_offset()

    def _check_offset(self) -> None:
        if self.stride is None or self.rounding == "ceil":
            owner = "a vector" if self.stride is None else "rounding ceil"
            raise ValueError(f"{owner} has no offset (got {self.offset})")
        if self.rounding == "exact" and (self.offset / self.stride).denominator != 1:
            raise ValueError(
                f"an offset with rounding exact is a whole number of strides (got {self.offset}, stride {self.stride})"
            )

    def cells(self, pixels: int) -> int:
        """Return the cells along a side of `pixels` image pixels: 0 where it is shorter than the offset.

        Raises ValueError where an exact quotient is not whole.
        """
        assert self.stride is not None
        quotient = max(pixels - self.offset, 0) / self.stride
        if self.rounding == "exact" and quotient.denominator != 1:
            raise ValueError(f"{pixels} pixels are not a whole number of cells of stride {self.stride}")
        return -((-quotient.numerator) // quotient.denominator) if self.rounding == "ceil" else int(quotient)

    def shape(self, batch: Batch, height: int, width: int) -> tuple[int | Batch, ...]:
        """Return the shape for `batch` images of `height` x `width` reference pixels, in the order of `axes`.

        `batch` is a number or a symbol.
        """
        sizes: dict[str, int | Batch] = {"b": batch, "c": self.channels, "t": self.frames}
        if self.stride is not None:
            rows, columns = self.cells(height), self.cells(width)
            frames = 1 if "t" in self.axes else self.frames
            sizes |= {"h": rows, "w": columns, "n": self.prefix + frames * rows * columns}
        return tuple(sizes[axis] for axis in self.axes.split())


Features = tuple[Feature, ...]


Axes = tuple[tuple[str, ...], ...]
"""One side of a pattern: the axes of each dimension. `b (h w) c` is `(("b",), ("h", "w"), ("c",))`."""

_MERGED: Mapping[tuple[str, ...], str] = MappingProxyType(
    {("h", "w"): "n", ("t", "h", "w"): "n", ("t", "c"): "c", ("c", "t"): "c"}
)
"""The dimensions of several axes that a feature may have, each with its name in a layout."""


@lru_cache
def parse_pattern(pattern: str) -> tuple[Axes, Axes]:
    """Return the left and the right side of an einops pattern, which is not checked."""
    left, _, right = pattern.partition("->")
    return _parse_axes(left), _parse_axes(right)


def _parse_axes(side: str) -> Axes:
    dimensions = re.findall(r"\([^()]*\)|[^\s()]+|[()]", side)
    return tuple(tuple(dimension.strip("()").split()) for dimension in dimensions)


def _merge_axes(side: Axes) -> str:
    return " ".join(_MERGED.get(dimension, "".join(dimension)) for dimension in side)


REDUCTIONS = ("mean", "max", "min")


def validate_pattern(pattern: str, reduction: str | None) -> None:
    """Check the pattern of a neck. `reduction` is over the axes missing on the right.

    Raises ValueError for a pattern whose sides are not layouts, for one that lacks axes on the right without a
    reduction, or none with one, and for an unknown reduction.
    """
    sides = parse_pattern(pattern)
    if ("c",) not in sides[0] or not all(_is_layout(_merge_axes(side)) for side in sides):
        raise ValueError(f"pattern must lead from layout to layout, as 'b (h w) c -> b c h w' does (got {pattern!r})")
    names = [list(chain.from_iterable(side)) for side in sides]
    before, after = map(set, names)
    if len(before) < len(names[0]) or len(after) < len(names[1]):
        raise ValueError(f"pattern must name each axis once on a side (got {pattern!r})")
    if not after <= before or (after < before) != (reduction is not None):
        rule = "fewer axes on the right than" if reduction else "the same axes on the right as"
        raise ValueError(f"pattern must have {rule} on the left with reduction {reduction} (got {pattern!r})")
    if reduction not in (None, *REDUCTIONS):
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)} (got {reduction!r})")


def has_layout(feature: Feature, side: Axes) -> bool:
    """Return whether a feature is laid out as one side of a pattern. Tokens may be spelled out as their grid."""
    names = feature.axes.split()
    grids: set[tuple[str, ...]] = {("n",)}
    if "t" in names or feature.frames == 1:
        grids.add(("h", "w"))
    if "t" not in names:
        grids.add(("t", "h", "w"))
    allowed = [grids if name == "n" else {(name,)} for name in names]
    return len(side) == len(allowed) and all(map(contains, allowed, side))


def rearrange_feature(feature: Feature, pattern: str) -> Feature:
    """Return a feature after an einops pattern; axes missing on the right are reduced.

    Its frames become channels where the two share a dimension, `(t c)`. A prefix stays where the tokens stay one axis
    `n`, and is dropped where the pattern spells out their grid.
    """
    left, right = parse_pattern(pattern)
    axes, after = _merge_axes(right), set(chain.from_iterable(right))
    in_channels = any({"c", "t"} <= set(dimension) for dimension in right)
    keeps_frames = "t" in after or ("n" in after and ("t",) not in left)
    has_grid = not {"h", "n"}.isdisjoint(axes)
    return Feature(
        channels=feature.channels * (feature.frames if in_channels else 1),
        stride=feature.stride if has_grid else None,
        axes=axes,
        rounding=feature.rounding if has_grid else "exact",
        prefix=feature.prefix if ("n",) in right else 0,
        frames=feature.frames if keeps_frames and not in_channels else 1,
        offset=feature.offset if has_grid else 0,
    )


def parse_height_and_width(name: str, value: object) -> tuple[int, int] | None:
    """Return height and width in pixels, or None. Raises ValueError, which names the field, for other values."""
    if value is None:
        return None
    if (
        not isinstance(value, list | tuple)
        or len(value) != 2
        or any(type(side) is not int or side < 1 for side in value)
    ):
        raise ValueError(f"{name} must be two whole numbers, height and width (got {value!r})")
    if max(value) > MAX_PIXELS:
        raise ValueError(f"{name} must be at most {MAX_PIXELS:,} pixels a side (got {max(value):,})")
    return value[0], value[1]


def _parse_image_size(value: object) -> tuple[int, int] | None:
    return parse_height_and_width("size", value)


def _validate_bounded_stride(_: object, __: Attribute[Fraction], value: Fraction) -> None:
    if not is_bounded_stride(value):
        raise ValueError(f"stride must be a ratio of numbers of at most {MAX_PIXELS:,} (got '{value}')")


def is_bounded_stride(stride: Fraction) -> bool:
    """Return whether numerator and denominator are at most `MAX_PIXELS`: no image fits another stride."""
    return max(stride.numerator, stride.denominator) <= MAX_PIXELS


@frozen(kw_only=True)
class Image:
    """An input of a graph: a map of `channels`, `"b c h w"`, or `"b c t h w"` where `frames` is given.

    `stride` is reference pixels per pixel of this image: 2 for an input at half the resolution. `size` fixes
    the reference to (height, width) pixels. Raises ValueError for other values.
    """

    channels: int = field(default=3, validator=IntRange(1, MAX_BANDS))
    stride: Fraction = field(default=Fraction(1), converter=parse_stride, validator=_validate_bounded_stride)
    frames: int | None = field(default=None, validator=IntRange(1, MAX_FRAMES, optional=True))
    size: tuple[int, int] | None = field(default=None, converter=_parse_image_size)

    @property
    def feature(self) -> Feature:
        """Return the image as a feature, which is what contracts receive."""
        axes = MAP if self.frames is None else FRAMES
        return Feature(channels=self.channels, stride=self.stride, axes=axes, frames=self.frames or 1)


def format_count(number: int, noun: str, nouns: str | None = None, form: str = "") -> str:
    """Return `1 prefix token` or `4 prefix tokens`; `nouns` is an irregular plural, `form` a format of the number."""
    return f"{number:{form}} {noun if number == 1 else nouns or f'{noun}s'}"


def get_layout_kind(feature: Feature) -> str:
    """Return the usual name of a layout: map, tokens or vector."""
    names = feature.axes.split()
    return "tokens" if "n" in names else "vector" if "h" not in names else "map"


def _format_values(values: Sequence[object]) -> str:
    return str(values[0]) if len(set(values)) == 1 else ", ".join(map(str, values))


def describe_features(features: Features) -> str:
    """Describe features in words: `4 × tokens "b n c" (768 channels, stride 16, 1 prefix token)`."""
    if not features:
        return "nothing"
    kinds = dict.fromkeys(f'{get_layout_kind(f)} "{f.axes}"' for f in features)
    many = f"{len(features)} × " if len(features) > 1 else ""
    widths = [f.channels for f in features]
    info = [format_count(widths[0], "channel") if len(set(widths)) == 1 else f"{_format_values(widths)} channels"]
    strides = [f.stride for f in features if f.stride is not None]
    if strides:
        info.append(f"stride {_format_values(strides)}")
    if any(f.rounding != "exact" for f in features):
        info.append(f"rounding {_format_values([f.rounding for f in features])}")
    if any(f.offset for f in features):
        info.append(f"offset {_format_values([f.offset for f in features])}")
    if any(f.prefix for f in features):
        info.append(format_count(max(f.prefix for f in features), "prefix token"))
    if any(f.frames > 1 for f in features):
        info.append(format_count(max(f.frames for f in features), "frame"))
    return f"{many}{' and '.join(kinds)} ({', '.join(info)})"
