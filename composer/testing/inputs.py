"""Inputs that a part is tested with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from inspect import Parameter, signature
from itertools import product

from attrs import evolve, frozen

from composer.layouts import Feature, Features, Image, describe_features
from composer.parts import Encoder, Part, ProbedEncoder
from composer.parts.base import contract
from composer.parts.rules import compute_exact_multiple
from composer.testing.strategies import CHANNELS, LAYOUTS, MAX_PYRAMID_LEVELS, SHAPES, list_strides

WIDTHS = (
    (11, 13, 17, 19, 23),
    (11,) * MAX_PYRAMID_LEVELS,
    (32,) * MAX_PYRAMID_LEVELS,
    (8, 16, 32, 64, 128),
    (1,) * MAX_PYRAMID_LEVELS,
)
"""Channels of the levels: different primes, equal, equal and even, growing, and 1."""

PROBED_IMAGE_CHANNELS = (3, 1, 2, 6, 12)
"""Channels of images for encoders whose library is probed: few, because each probe builds a network."""

IMAGE_CHANNELS = (*PROBED_IMAGE_CHANNELS, 4, 5, 7, 10, 13)

ANY_NAMES = ("first", "second")
"""Names of the inputs of a contract that takes `**named`."""

Size = tuple[int, int]
"""Height and width of an image, in reference pixels."""

MIN_CELLS, MAX_CELLS = 3, 100
"""Cells a side of the coarsest level at which it is tried whether a module runs at all."""


@frozen
class Inputs:
    """The inputs of a part, each a tuple of features; the last ones are passed by these names."""

    all: tuple[Features, ...]
    names: tuple[str, ...] = ()

    @property
    def positional(self) -> tuple[Features, ...]:
        """The inputs that are passed by position."""
        return self.all[: len(self.all) - len(self.names)]

    @property
    def named(self) -> dict[str, Features]:
        """The inputs that are passed by name."""
        return dict(zip(self.names, self.all[len(self.positional) :], strict=True))

    @property
    def edges(self) -> Features:
        """Every feature of every input."""
        return tuple(feature for features in self.all for feature in features)

    def map_features(self, change: Callable[[Feature], Feature]) -> Inputs:
        """Return the same inputs with every feature changed."""
        return evolve(self, all=tuple(tuple(map(change, features)) for features in self.all))

    def __str__(self) -> str:
        named = [f"{name}: {describe_features(features)}" for name, features in self.named.items()]
        return "; ".join([*map(describe_features, self.positional), *named])


def find_unambiguous_size(features: Features, least: int = 1) -> Size | None:
    """Return a size that is exact and not square, at which no axis of a feature is as long as its channels.

    Otherwise a module might run by accident, with one axis for another. None if there is no such size.
    """
    exact = compute_exact_multiple(*features)
    fewest = max(MIN_CELLS, -(-max(exact.least, least) // exact.multiple))

    def is_ambiguous(size: Size) -> bool:
        axes = [(f, *axis) for f in features for axis in zip(f.axes.split(), f.shape(1, *size), strict=True)]
        return any(axis in "hwnt" and count == f.channels for f, axis, count in axes)

    sizes = ((rows * exact.multiple, (rows + 1) * exact.multiple) for rows in range(fewest, fewest + MAX_CELLS))
    return next((size for size in sizes if not is_ambiguous(size)), None)


def iter_candidate_inputs(part: Part) -> Iterator[Inputs]:
    """Yield the inputs to try a part with, simple ones first: a tuple of features for each input of its contract.

    Encoders get images; several by name, if the contract has names for them or the encoder declares them.
    """
    if isinstance(part, ProbedEncoder):
        yield from _iter_probed_images(part)
        return
    singles = [features for axes in LAYOUTS for features in list_stacks(axes, *SHAPES)]
    other_widths: Sequence[int] = CHANNELS[-1:]
    if isinstance(part, Encoder):
        declared = [getattr(part, name, None) for name in ("channels", "frames")]
        channels, frames = ([value] if isinstance(value, int) else [] for value in declared)
        other_widths = tuple(dict.fromkeys((*channels, *IMAGE_CHANNELS)))
        frame_counts = dict.fromkeys((None, *frames, 3, 1, 2, 4))
        singles = [_build_image(*values) for values in product(other_widths, frame_counts)]
    for (count, names), features in product(_list_input_slots(type(part)), singles):
        for inputs in _iter_variants(features, count, other_widths):
            yield Inputs(inputs, names)


def _list_input_slots(part_class: type[Part]) -> list[tuple[int, tuple[str, ...]]]:
    """Return how many inputs a contract takes, and the names of the last ones; two more if it takes any number."""
    parameters = list(signature(contract.dispatch(part_class)).parameters.values())[1:]
    kinds = [p.kind for p in parameters]
    count = sum(kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds)
    count = max(2, count) if Parameter.VAR_POSITIONAL in kinds else count
    names = tuple(p.name for p in parameters if p.kind is Parameter.KEYWORD_ONLY)
    choices = [names, (*names, *ANY_NAMES)] if Parameter.VAR_KEYWORD in kinds else [names]
    return [(count + len(names), names) for names in choices if count or names]


def list_stacks(axes: str, *shapes: str) -> list[Features]:
    """Return outputs of encoders and necks in one layout: single features, and stacks of these shapes of strides."""
    stacks: list[Features] = []
    is_grid = bool({"h", "n"} & set(axes))
    prefixes = (0, 1, 5) if "n" in axes else (0,)
    frame_counts = (1, 3) if {"t", "n"} & set(axes) else (1,)
    for count, widths, prefix, frames in product((1, 4, 2, 3, 5), WIDTHS, prefixes, frame_counts):
        is_varied = is_grid and count > 1 and not prefix and frames == 1
        for shape in shapes if is_varied else ("flat",):
            strides = list_strides(shape, count, 1 if count == MAX_PYRAMID_LEVELS else 2)
            stack = (
                Feature(channels=channels, stride=stride if is_grid else None, axes=axes, prefix=prefix, frames=frames)
                for channels, stride in zip(widths, strides, strict=False)
            )
            stacks.append(tuple(stack))
    return stacks


def _build_image(channels: int, frames: int | None) -> Features:
    return (Image(channels=channels, frames=frames).feature,)


def _iter_probed_images(encoder: ProbedEncoder) -> Iterator[Inputs]:
    """Yield an image, and two of each pair of channels for which an encoder has names."""
    for channels, frames in product(PROBED_IMAGE_CHANNELS, (None, 3, 1)):
        yield Inputs((_build_image(channels, frames),))
    for bands in product(PROBED_IMAGE_CHANNELS, repeat=2) if encoder.takes_names else ():
        names = encoder.find_image_names(bands) or ()
        for frames in (None, 3) if names else ():
            yield Inputs(tuple(_build_image(channels, frames) for channels in bands), names)


def _iter_variants(features: Features, count: int, widths: Sequence[int]) -> Iterator[tuple[Features, ...]]:
    """Yield `count` equal inputs; then each of these widths, and other strides, in the last one."""
    first = (features,) * (count - 1)
    yield (*first, features)
    if first:
        for channels in widths:
            yield (*first, tuple(evolve(f, channels=channels) for f in features))
        if all(f.stride is not None for f in features):
            yield (*first, tuple(evolve(f, stride=f.stride * 2) for f in features if f.stride is not None))
