"""What a part may be fed: of all the layouts, pyramids and widths that are tried, those it takes and those it does not.

Contracts are cheap, so that all are asked; what is drawn afterwards is drawn among what fits. No torch here.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from inspect import Parameter, signature
from itertools import product
from typing import Any

from attrs import evolve, frozen

from composer.contracts import contract
from composer.feature import Feature, Features, Image, describe_features
from composer.parts import Encoder, Part, ProbedEncoder
from composer.testing.strategies import CHANNELS, LAYOUTS, MAX_PYRAMID_LEVELS, list_strides

WIDTHS = (
    (11, 13, 17, 19, 23),
    (11,) * MAX_PYRAMID_LEVELS,
    (32,) * MAX_PYRAMID_LEVELS,
    (16, 32, 64, 128, 256),
    (1,) * MAX_PYRAMID_LEVELS,
)
"""Channels of the levels: unlike primes, alike, alike and even, growing, and one."""

PROBED_IMAGE_CHANNELS = (3, 1, 2, 6, 12)
IMAGE_CHANNELS = (*PROBED_IMAGE_CHANNELS, 4, 5, 7, 10, 13)
"""Channels of images: of an encoder that is probed few, for each is a question to its library."""

ANY_NAMES = ("first", "second")
"""What inputs are called where a contract takes any names."""


@frozen
class Inputs:
    """The inputs of a part: by position, then by name; each a tuple of features."""

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

    @property
    def sentences(self) -> list[str]:
        """Each input as a person reads it, behind its name where it has one."""
        names = [f"{name}: " for name, _ in self.named]
        return [
            f"{name}{describe_features(features)}"
            for name, features in zip(["" for _ in self.positional] + names, self.all, strict=True)
        ]

    def replace_features(self, inputs: tuple[Features, ...]) -> Inputs:
        """The same places with other inputs."""
        count = len(self.positional)
        names = [name for name, _ in self.named]
        return Inputs(inputs[:count], tuple(zip(names, inputs[count:], strict=True)))


@frozen
class ClassifiedInputs:
    """What something was tried with: what it accepts, what it refuses, and `untaken`, what a plain neck cannot run.

    `reason` is why the first input that is not accepted is not; `fault` is what shows already that the part is wrong.
    """

    accepted: tuple[Inputs, ...]
    refused: tuple[Inputs, ...]
    untaken: tuple[Inputs, ...] = ()
    reason: str = ""
    fault: str = ""

    @property
    def taken(self) -> str:
        """How many inputs a plain neck takes, and what it says of the first that it does not: a line for a reader."""
        count = len(self.accepted) + len(self.refused) + len(self.untaken)
        said = f"took {len(self.accepted)} of {count} inputs"
        return f"{said}; not: {'; '.join(self.untaken[0].sentences)} ({self.reason})" if self.untaken else said

    def _repr_pretty_(self, printer: Any, _: bool) -> None:  # noqa: FBT001, IPython's protocol, and Hypothesis's
        printer.text(f"<{len(self.accepted)} inputs accepted, {len(self.refused)} refused>")


def iter_candidate_inputs(part: Part) -> Iterator[Inputs]:
    """What a part is tried with, simple things first: one tuple of features for each input that its contract has.

    An encoder is tried with images; with several by name, where its contract has names for them, or it says so.
    """
    if isinstance(part, ProbedEncoder):
        yield from (Inputs((image,)) for image in _iter_images(PROBED_IMAGE_CHANNELS, (None, 3, 1)))
        yield from _iter_named_inputs(part)
        return
    for count, names in _list_input_slots(type(part)):
        wanted = count + len(names)
        for several in _iter_image_inputs(part, wanted) if isinstance(part, Encoder) else _iter_stack_inputs(wanted):
            yield Inputs(several[:count], tuple(zip(names, several[count:], strict=True)))


def _list_input_slots(part_class: type[Part]) -> list[tuple[int, tuple[str, ...]]]:
    """How many inputs a contract takes by position, and which by name. Of one that takes any number, two."""
    parameters = list(signature(contract.dispatch(part_class)).parameters.values())[1:]
    kinds = [p.kind for p in parameters]
    count = sum(kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds)
    names = tuple(p.name for p in parameters if p.kind is Parameter.KEYWORD_ONLY)
    more = Parameter.VAR_KEYWORD in kinds
    places = [(count, (*names, *ANY_NAMES))] if more else []
    if Parameter.VAR_POSITIONAL in kinds:
        return [(max(2, count), names), *places]
    return [(count, names), *places] if count or names or not more else places


def iter_stacks() -> Iterator[Features]:
    """Features that an encoder or a neck might give: of each layout one map, flat stacks, pyramids."""
    for axes, count, widths in product(LAYOUTS, (1, 4, 2, 3, 5), WIDTHS):
        for shape in ("flat", "pyramid", "bottleneck", "upside down") if count > 1 else ("flat",):
            for prefix, frames in product(
                (0, 1, 5) if "n" in axes else (0,), (1, 3) if set("tn") & set(axes) else (1,)
            ):
                strides = list_strides(shape, count, 1 if count == MAX_PYRAMID_LEVELS else 2)
                yield tuple(
                    _build_feature(channels, stride, axes, prefix, frames)
                    for channels, stride in zip(widths, strides, strict=False)
                )


def _build_feature(channels: int, stride: Fraction, axes: str, prefix: int, frames: int) -> Feature:
    vector = not {"h", "n"} & set(axes)
    return Feature(
        channels=channels, stride=None if vector else stride, axes=axes, prefix=0 if vector else prefix, frames=frames
    )


def _iter_images(bands: tuple[int, ...], frames: tuple[int | None, ...]) -> Iterator[Features]:
    for channels, count in product(bands, frames):
        yield (Image(channels=channels, frames=count).feature,)


def _iter_stack_inputs(count: int) -> Iterator[tuple[Features, ...]]:
    for features in iter_stacks():
        yield from _iter_input_variants(features, count)


def _iter_image_inputs(encoder: Encoder, count: int) -> Iterator[tuple[Features, ...]]:
    """So many images for an encoder of one's own: first those of the channels and the frames that it has fields for.

    Of several, the last is of any other channels too.
    """
    said = [getattr(encoder, name, None) for name in ("channels", "frames")]
    bands, frames = ((one,) if isinstance(one, int) else () for one in said)
    bands, frames = tuple(dict.fromkeys((*bands, *IMAGE_CHANNELS))), tuple(dict.fromkeys((None, *frames, 3, 1, 2, 4)))
    for image in _iter_images(bands, frames):
        yield from _iter_input_variants(image, count)
    for image, channels in product(_iter_images(bands, frames), bands if count > 1 else ()):
        yield (*(image,) * (count - 1), (evolve(image[0], channels=channels),))


def _iter_named_inputs(encoder: ProbedEncoder) -> Iterator[Inputs]:
    """Two images, of each pair of channels for which an encoder that takes several by name has names."""
    for bands in product(PROBED_IMAGE_CHANNELS, repeat=2) if encoder.takes_names else ():
        for frames in (None, 3) if encoder.find_image_names(bands) else ():
            images = [(Image(channels=channels, frames=frames).feature,) for channels in bands]
            yield Inputs((), tuple(zip(encoder.find_image_names(bands) or (), images, strict=True)))


def _iter_input_variants(features: Features, count: int) -> Iterator[tuple[Features, ...]]:
    """So many inputs: all alike, and with other channels or other strides in the last."""
    yield (features,) * count
    if count > 1:
        *_, last = CHANNELS
        yield (*(features,) * (count - 1), tuple(evolve(f, channels=last) for f in features))
        if all(f.stride is not None for f in features):
            yield (*(features,) * (count - 1), tuple(evolve(f, stride=_get_doubled_stride(f)) for f in features))


def _get_doubled_stride(feature: Feature) -> Any:
    return None if feature.stride is None else feature.stride * 2
