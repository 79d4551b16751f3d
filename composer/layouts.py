"""Features: the layout, channels and stride of each tensor that flows along an edge."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from attrs import Attribute, field, frozen

Rounding = Literal["exact", "floor", "ceil"]


ROUNDINGS: tuple[Rounding, ...] = ("exact", "floor", "ceil")


MAP = "b c h w"


CHANNELS_LAST = "b h w c"


TOKENS = "b n c"


VECTOR = "b c"


FRAMES = "b c t h w"
"""The layout of an image with frames. What a network gives for each frame alone has its frames in front, `"b t …"`."""


MAP_PER_FRAME = "b t c h w"


TOKENS_PER_FRAME = "b t n c"


MAX_BANDS, MAX_FRAMES, MAX_PIXELS = 65_536, 1024, 2**20
"""What an image that flows in may have: channels, frames, and pixels of a side."""


def parse_stride(value: int | str | Fraction) -> Fraction:
    """Turn `16`, `"3/2"` or a Fraction into an exact, positive Fraction. Raises ValueError otherwise."""
    text_is_ratio = isinstance(value, str) and re.fullmatch(r"[1-9][0-9]{0,8}(/[1-9][0-9]{0,8})?", value)
    if not (text_is_ratio or isinstance(value, Fraction) or type(value) is int):
        raise ValueError(f"a stride is a whole number or a ratio such as '3/2' (got {value!r})")
    ratio = value if isinstance(value, Fraction) else Fraction(value)
    if ratio.numerator <= 0:
        raise ValueError(f"a stride must be positive (got {value!r})")
    return ratio


def _parse_optional_stride(value: int | str | Fraction | None) -> Fraction | None:
    return None if value is None else parse_stride(value)


def _parse_offset(value: int | str | Fraction) -> int | Fraction:
    """A whole number wherever it is one. Raises ValueError for what is neither that nor a ratio."""
    text_is_ratio = isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,9}(/[1-9][0-9]{0,8})?", value)
    if not (text_is_ratio or isinstance(value, Fraction) or type(value) is int):
        raise ValueError(f"an offset is a whole number of pixels (got {value!r})")
    ratio = Fraction(value)
    return ratio.numerator if ratio.denominator == 1 else ratio


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


def _check_axes(_: object, __: Attribute[str], axes: str) -> None:
    if not _is_layout(axes):
        raise ValueError(f"axes must be a layout such as {MAP!r}, {TOKENS!r} or {VECTOR!r} (got {axes!r})")


def _check_positive(_: object, attribute: Attribute[int], value: int) -> None:
    if type(value) is not int or value < 1:
        raise ValueError(f"{attribute.name} must be a whole number of at least 1 (got {value!r})")


@frozen(kw_only=True)
class Feature:
    """What one tensor promises: a layout, `channels`, and its grid as a function of the image.

    `axes` is the layout as an einops pattern, in any order: a map `"b c h w"`, a channels-last map
    `"b h w c"`, tokens `"b n c"`, a vector `"b c"`; a map, tokens or a vector per frame `"b t c h w"`, `"b t n c"`,
    `"b t c"`. `stride` is image pixels per cell, per side, so `h = H / stride` and `w = W / stride`; it is None
    exactly for vectors. `rounding` says what a quotient that is not whole becomes; `exact` means the graph's sizes
    exclude it. `prefix` counts the tokens before the grid (class token, registers): `n = prefix + h * w` where `t` is
    an axis of its own, and `n = prefix + frames * h * w` where the frames are among the tokens.

    `offset` is 0 for nearly all. A network with convolutions that are not padded loses pixels at the borders, and one
    whose levels round in turn up and down gains some: `h = floor((H - offset) / stride)`, where a gain is a negative
    offset. It goes with `floor`, and with `exact` as a whole number of strides: `h = H / stride - offset / stride`.
    `ceil` is the same as `floor` with an offset of `1 - stride`, and has none of its own. The offset only counts the
    cells: output that is brought to the image's size is stretched over all of the image, as timm's users do it.

    Raises ValueError where the fields contradict each other.
    """

    channels: int = field(validator=_check_positive)
    stride: Fraction | None = field(default=Fraction(1), converter=_parse_optional_stride)
    axes: str = field(default=MAP, validator=_check_axes)
    rounding: Rounding = "exact"
    prefix: int = 0
    frames: int = field(default=1, validator=_check_positive)
    offset: int | Fraction = field(default=0, converter=_parse_offset)

    def __attrs_post_init__(self) -> None:
        names = self.axes.split()
        if (self.stride is None) != ("h" not in names and "n" not in names):
            raise ValueError(f"a vector, and only a vector, has no stride (got {self.axes!r}, stride {self.stride})")
        if self.rounding not in ROUNDINGS:
            raise ValueError(f"rounding is one of {', '.join(ROUNDINGS)} (got {self.rounding!r})")
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
        """Cells along a side of `pixels` image pixels: none where it is shorter than the offset.

        Raises ValueError where an exact quotient is not whole.
        """
        assert self.stride is not None
        quotient = max(pixels - self.offset, 0) / self.stride
        if self.rounding == "exact" and quotient.denominator != 1:
            raise ValueError(f"{pixels} pixels are no whole number of cells of stride {self.stride}")
        return -((-quotient.numerator) // quotient.denominator) if self.rounding == "ceil" else int(quotient)

    def shape(self, batch: int, height: int, width: int) -> tuple[int, ...]:
        """The tensor's shape for `batch` images of `height` x `width` reference pixels, in the order of `axes`."""
        sizes = {"b": batch, "c": self.channels, "t": self.frames}
        if self.stride is not None:
            sizes["h"], sizes["w"] = self.cells(height), self.cells(width)
            frames = 1 if "t" in self.axes else self.frames
            sizes["n"] = self.prefix + frames * sizes["h"] * sizes["w"]
        return tuple(sizes[axis] for axis in self.axes.split())


Features = tuple[Feature, ...]


def parse_height_and_width(name: str, value: object) -> tuple[int, int] | None:
    """Two sides in pixels, or None. Raises ValueError, which names the field, for anything else."""
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


def _check_bands(_: object, attribute: Attribute[int], value: int) -> None:
    _check_positive(_, attribute, value)
    if value > MAX_BANDS:
        raise ValueError(f"channels must be at most {MAX_BANDS:,} (got {value:,})")


def _check_bounded_stride(_: object, __: Attribute[Fraction], value: Fraction) -> None:
    if not is_bounded_stride(value):
        raise ValueError(f"stride must be a ratio of numbers of at most {MAX_PIXELS:,} (got '{value}')")


def is_bounded_stride(stride: Fraction) -> bool:
    """Whether a stride is a ratio of numbers that a side of an image may have pixels: no other is met by any."""
    return max(stride.numerator, stride.denominator) <= MAX_PIXELS


def _check_frames(_: object, __: Attribute[int | None], value: int | None) -> None:
    if value is not None and (type(value) is not int or value < 1):
        raise ValueError(f"frames must be a whole number of at least 1 (got {value!r})")
    if value is not None and value > MAX_FRAMES:
        raise ValueError(f"frames must be at most {MAX_FRAMES:,} (got {value:,})")


@frozen(kw_only=True)
class Image:
    """An input of a graph: a map of `channels`, `"b c h w"`, or `"b c t h w"` where `frames` is given.

    `stride` is reference pixels per pixel of this image: 2 for an input at half the resolution. `size` fixes
    the reference to (height, width) pixels. Raises ValueError for values that are no image.
    """

    channels: int = field(default=3, validator=_check_bands)
    stride: Fraction = field(default=Fraction(1), converter=parse_stride, validator=_check_bounded_stride)
    frames: int | None = field(default=None, validator=_check_frames)
    size: tuple[int, int] | None = field(default=None, converter=_parse_image_size)

    @property
    def feature(self) -> Feature:
        """The image as a feature, which is all that a part is told of it."""
        axes = MAP if self.frames is None else FRAMES
        return Feature(channels=self.channels, stride=self.stride, axes=axes, frames=self.frames or 1)


def format_count(number: int, noun: str, nouns: str | None = None, form: str = "") -> str:
    """`1 prefix token`, `4 prefix tokens`; with `nouns` for what has another plural, the number written in `form`."""
    return f"{number:{form}} {noun if number == 1 else nouns or f'{noun}s'}"


def get_layout_kind(feature: Feature) -> str:
    """What the field calls a tensor of this layout: map, tokens, vector."""
    names = feature.axes.split()
    return "tokens" if "n" in names else "vector" if "h" not in names else "map"


def _format_values(values: Sequence[object]) -> str:
    return str(values[0]) if len(set(values)) == 1 else ", ".join(map(str, values))


def describe_features(features: Features) -> str:
    """Features as a person reads them: `4 × tokens "b n c" (768 channels, stride 16, 1 prefix token)`."""
    if not features:
        return "nothing"
    kinds = dict.fromkeys(f'{get_layout_kind(f)} "{f.axes}"' for f in features)
    many = f"{len(features)} × " if len(features) > 1 else ""
    widths = [f.channels for f in features]
    facts = [format_count(widths[0], "channel") if len(set(widths)) == 1 else f"{_format_values(widths)} channels"]
    strides = [f.stride for f in features if f.stride is not None]
    if strides:
        facts.append(f"stride {_format_values(strides)}")
    if any(f.rounding != "exact" for f in features):
        facts.append(f"rounding {_format_values([f.rounding for f in features])}")
    if any(f.offset for f in features):
        facts.append(f"offset {_format_values([f.offset for f in features])}")
    if any(f.prefix for f in features):
        facts.append(format_count(max(f.prefix for f in features), "prefix token"))
    if any(f.frames > 1 for f in features):
        facts.append(format_count(max(f.frames for f in features), "frame"))
    return f"{many}{' and '.join(kinds)} ({', '.join(facts)})"
