"""Hypothesis strategies of what flows along an edge: features, pyramids, images. Small enough to run. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from attrs import evolve
from hypothesis import strategies as st

from composer.feature import MAP, ROUNDINGS, Feature, Features, Image

CHANNELS = (11, 13, 17, 19, 23, 29)
"""Primes that no grid drawn here and no batch has, so that a channel is never taken for a row by accident."""

LAYOUTS = ("b c h w", "b h w c", "b n c", "b c", "b t c h w", "b c t h w", "b c n", "b w c h", "b t n c", "b t c")
STRIDES = tuple(map(Fraction, (1, 2, 4, 8, 16)))
OFFSETS = (0, 0, 5, 19, -1, -9)
"""What convolutions without padding, and levels that round in turn up and down, come to; mostly nothing."""

MAX_PYRAMID_LEVELS = 5


@st.composite
def features(
    draw: st.DrawFn, axes: str | None = None, stride: Fraction | None = None, channels: Sequence[int] = CHANNELS
) -> Feature:
    """One feature: of any layout, stride, rounding, prefix, frames and offset, or of the layout and stride given."""
    axes = axes or draw(st.sampled_from(LAYOUTS))
    names = axes.split()
    if "n" not in names and "h" not in names:
        frames = draw(st.sampled_from((1, 3))) if "t" in names else 1
        return Feature(channels=draw(st.sampled_from(channels)), axes=axes, stride=None, frames=frames)
    stride = stride or draw(st.sampled_from(STRIDES))
    rounding = draw(st.sampled_from((ROUNDINGS[0], *ROUNDINGS)))
    # A grid that is whole loses whole cells, and one that is rounded up none.
    some: Sequence[int | Fraction] = OFFSETS if rounding == "floor" else [*[0] * 7, 2 * stride]
    offset = 0 if rounding == "ceil" else draw(st.sampled_from(some))
    return Feature(
        channels=draw(st.sampled_from(channels)),
        axes=axes,
        stride=stride,
        rounding=rounding,
        offset=offset,
        prefix=draw(st.sampled_from((0, 1, 5))) if "n" in names else 0,
        frames=draw(st.sampled_from((1, 3))) if {"n", "t"} & set(names) else 1,
    )


@st.composite
def pyramids(draw: st.DrawFn, favourite: str = MAP) -> Features:
    """What an encoder or a neck might give: a pyramid, a flat stack, a pyramid upside down, or a jumble.

    Half of them are of the layout `favourite`, the others of any.
    """
    count = draw(st.sampled_from((1, 2, 3, 4, 4, 5)))
    shape = draw(st.sampled_from(("pyramid", "pyramid", "flat", "flat", "bottleneck", "upside down", "jumble")))
    if shape == "jumble":
        return tuple(draw(features()) for _ in range(count))
    axes = draw(st.sampled_from((*[favourite] * len(LAYOUTS), *LAYOUTS)))
    first = draw(st.sampled_from((1, 2, 4) if count < MAX_PYRAMID_LEVELS else (1,)))
    return tuple(draw(features(axes=axes, stride=stride)) for stride in list_strides(shape, count, first))


def list_strides(shape: str, count: int, first: int) -> list[Fraction]:
    """The strides of so many levels: `pyramid`, `flat`, `bottleneck` (the last two alike), or `upside down`."""
    strides = [Fraction(first * (1 if shape == "flat" else 2**level)) for level in range(count)]
    if shape == "bottleneck" and count > 1:
        strides[-1] = strides[-2]
    return strides[::-1] if shape == "upside down" else strides


@st.composite
def images(draw: st.DrawFn) -> Image:
    """An input of a graph: of a few bands, with frames or without, and perhaps of one size."""
    return Image(
        channels=draw(st.sampled_from((3, 1, 2, 6, 12))),
        frames=draw(st.sampled_from((None, None, 1, 2, 3))),
        stride=draw(st.sampled_from((1, 1, 2))),
        size=draw(st.sampled_from((None, None, (64, 64), (64, 96)))),
    )


def replace_channels(feature: Feature, channels: int) -> Feature:
    """The same feature with other channels."""
    return evolve(feature, channels=channels)
