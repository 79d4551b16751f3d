"""Inputs that a part is tested with."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from inspect import Parameter, signature
from itertools import product
from typing import Any

from attrs import evolve, frozen

from composer.layouts import Feature, Features, Image, describe_features
from composer.parts import Encoder, Part, ProbedEncoder
from composer.parts.base import contract
from composer.testing.strategies import CHANNELS, LAYOUTS, MAX_PYRAMID_LEVELS, list_strides

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


@frozen
class Inputs:
    """The inputs of a part, by position and then by name; each is a tuple of features."""

    positional: tuple[Features, ...]
    named: tuple[tuple[str, Features], ...] = ()

    @property
    def all(self) -> tuple[Features, ...]:
        """Every input, in order."""
        return (*self.positional, *(features for _, features in self.named))

    @property
    def edges(self) -> Features:
        """Every feature of every input."""
        return tuple(feature for features in self.all for feature in features)

    def replace_features(self, inputs: tuple[Features, ...]) -> Inputs:
        """Return the same positions and names with other features."""
        count = len(self.positional)
        names = [name for name, _ in self.named]
        return Inputs(inputs[:count], tuple(zip(names, inputs[count:], strict=True)))

    def __str__(self) -> str:
        named = [f"{name}: {describe_features(features)}" for name, features in self.named]
        return "; ".join([*map(describe_features, self.positional), *named])


@frozen
class ClassifiedInputs:
    """The inputs that a subject accepts, those that its contract rejects, and those that a plain neck cannot run.

    `reason` is why the first of the others is not accepted; `fault` is a bug that the trials alone have shown.
    """

    accepted: tuple[Inputs, ...]
    rejected: tuple[Inputs, ...]
    failed: tuple[Inputs, ...] = ()
    reason: str = ""
    fault: str = ""

    @property
    def summary(self) -> str:
        """The number of accepted inputs, and why the first that a plain neck cannot run is not."""
        count = len(self.accepted) + len(self.rejected) + len(self.failed)
        text = f"accepted {len(self.accepted)} of {count} inputs"
        return f"{text}; not {self.failed[0]} ({self.reason})" if self.failed else text

    def _repr_pretty_(self, printer: Any, _: bool) -> None:  # noqa: FBT001, Hypothesis prints arguments by it
        printer.text(f"<{self.summary}>")


def iter_candidate_inputs(part: Part) -> Iterator[Inputs]:
    """Yield the inputs to try a part with, simple ones first: a tuple of features for each input of its contract.

    Encoders get images; several by name, if the contract has names for them or the encoder declares them.
    """
    if isinstance(part, ProbedEncoder):
        yield from (Inputs((image,)) for image in _iter_images(PROBED_IMAGE_CHANNELS, (None, 3, 1)))
        yield from _iter_named_images(part)
        return
    for count, names in _list_input_slots(type(part)):
        total = count + len(names)
        for inputs in _iter_image_inputs(part, total) if isinstance(part, Encoder) else _iter_stack_inputs(total):
            yield Inputs(inputs[:count], tuple(zip(names, inputs[count:], strict=True)))


def _list_input_slots(part_class: type[Part]) -> list[tuple[int, tuple[str, ...]]]:
    """Return how many inputs a contract takes by position, and the names of others; two if it takes any number."""
    parameters = list(signature(contract.dispatch(part_class)).parameters.values())[1:]
    kinds = [p.kind for p in parameters]
    count = sum(kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds)
    names = tuple(p.name for p in parameters if p.kind is Parameter.KEYWORD_ONLY)
    any_names = [(count, (*names, *ANY_NAMES))] if Parameter.VAR_KEYWORD in kinds else []
    if Parameter.VAR_POSITIONAL in kinds:
        return [(max(2, count), names), *any_names]
    return [(count, names), *any_names] if count or names or not any_names else any_names


def iter_stacks() -> Iterator[Features]:
    """Yield outputs of encoders and necks: of each layout single features, flat stacks and pyramids."""
    for axes, count, widths in product(LAYOUTS, (1, 4, 2, 3, 5), WIDTHS):
        is_grid = bool({"h", "n"} & set(axes))
        prefixes = (0, 1, 5) if "n" in axes else (0,)
        frame_counts = (1, 3) if set("tn") & set(axes) else (1,)
        shapes = ("flat", "pyramid", "bottleneck", "upside down") if count > 1 else ("flat",)
        for shape, prefix, frames in product(shapes, prefixes, frame_counts):
            strides = list_strides(shape, count, 1 if count == MAX_PYRAMID_LEVELS else 2)
            yield tuple(
                Feature(channels=channels, stride=stride if is_grid else None, axes=axes, prefix=prefix, frames=frames)
                for channels, stride in zip(widths, strides, strict=False)
            )


def _iter_images(bands: tuple[int, ...], frames: tuple[int | None, ...]) -> Iterator[Features]:
    for channels, count in product(bands, frames):
        yield (Image(channels=channels, frames=count).feature,)


def _iter_stack_inputs(count: int) -> Iterator[tuple[Features, ...]]:
    for features in iter_stacks():
        yield from _iter_input_variants(features, count)


def _iter_image_inputs(encoder: Encoder, count: int) -> Iterator[tuple[Features, ...]]:
    """Yield `count` images for a user's encoder, first those of its fields `channels` and `frames`.

    The last of several images also has every other number of channels.
    """
    declared = [getattr(encoder, name, None) for name in ("channels", "frames")]
    channels, frames = ((value,) if isinstance(value, int) else () for value in declared)
    bands = tuple(dict.fromkeys((*channels, *IMAGE_CHANNELS)))
    counts = tuple(dict.fromkeys((None, *frames, 3, 1, 2, 4)))
    for image in _iter_images(bands, counts):
        yield from _iter_input_variants(image, count)
    for image, last in product(_iter_images(bands, counts), bands if count > 1 else ()):
        yield (*(image,) * (count - 1), (evolve(image[0], channels=last),))


def _iter_named_images(encoder: ProbedEncoder) -> Iterator[Inputs]:
    """Yield two images of each pair of channels for which an encoder has names."""
    for bands in product(PROBED_IMAGE_CHANNELS, repeat=2) if encoder.takes_names else ():
        for frames in (None, 3) if encoder.find_image_names(bands) else ():
            images = [(Image(channels=channels, frames=frames).feature,) for channels in bands]
            yield Inputs((), tuple(zip(encoder.find_image_names(bands) or (), images, strict=True)))


def _iter_input_variants(features: Features, count: int) -> Iterator[tuple[Features, ...]]:
    """Yield `count` equal inputs; then other channels, and other strides, in the last one."""
    first = (features,) * (count - 1)
    yield (*first, features)
    if first:
        yield (*first, tuple(evolve(f, channels=CHANNELS[-1]) for f in features))
        strides = [f.stride for f in features]
        if None not in strides:
            doubled = zip(features, strides, strict=True)
            yield (*first, tuple(evolve(f, stride=Fraction(stride or 1) * 2) for f, stride in doubled))
