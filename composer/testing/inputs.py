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
from composer.feature import Feature, Features, Image
from composer.parts import Encoder, Part
from composer.testing.strategies import CHANNELS, LAYOUTS, MOST_LEVELS, strides_of

WIDTHS = ((11, 13, 17, 19, 23), (11,) * MOST_LEVELS, (32,) * MOST_LEVELS, (16, 32, 64, 128, 256), (1,) * MOST_LEVELS)
"""Channels of the levels: unlike primes, alike, alike and even, growing, and one."""


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

    def replaced(self, inputs: tuple[Features, ...]) -> Inputs:
        """The same places with other inputs."""
        count = len(self.positional)
        names = [name for name, _ in self.named]
        return Inputs(inputs[:count], tuple(zip(names, inputs[count:], strict=True)))


def tried(part: Part) -> Iterator[Inputs]:
    """What a part is tried with, simple things first: one tuple of features for each input that its contract has."""
    count, names = (1, ()) if isinstance(part, Encoder) else _places(type(part))
    for features in _images() if isinstance(part, Encoder) else stacks():
        for several in _alike_or_not(features, count + len(names)):
            yield Inputs(several[:count], tuple(zip(names, several[count:], strict=True)))


def _places(part_class: type[Part]) -> tuple[int, tuple[str, ...]]:
    """How many inputs a contract takes by position, and which by name. One that takes any number is given two."""
    parameters = list(signature(contract.dispatch(part_class)).parameters.values())[1:]
    positional = sum(p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD) for p in parameters)
    several = any(p.kind is Parameter.VAR_POSITIONAL for p in parameters)
    named = tuple(p.name for p in parameters if p.kind is Parameter.KEYWORD_ONLY)
    return (max(2, positional) if several else positional), named


def stacks() -> Iterator[Features]:
    """Features that an encoder or a neck might give: of each layout one map, flat stacks, pyramids."""
    for axes, count, widths in product(LAYOUTS, (1, 4, 2, 3, 5), WIDTHS):
        for shape in ("flat", "pyramid", "bottleneck", "upside down") if count > 1 else ("flat",):
            for prefix, frames in product(
                (0, 1, 5) if "n" in axes else (0,), (1, 3) if set("tn") & set(axes) else (1,)
            ):
                strides = strides_of(shape, count, 1 if count == MOST_LEVELS else 2)
                yield tuple(
                    _feature(channels, stride, axes, prefix, frames)
                    for channels, stride in zip(widths, strides, strict=False)
                )


def _feature(channels: int, stride: Fraction, axes: str, prefix: int, frames: int) -> Feature:
    vector = not {"h", "n"} & set(axes)
    return Feature(
        channels=channels, stride=None if vector else stride, axes=axes, prefix=0 if vector else prefix, frames=frames
    )


def _images() -> Iterator[Features]:
    for channels, frames in product((3, 1, 2, 6, 12), (None, 3, 1)):
        yield (Image(channels=channels, frames=frames).feature,)


def _alike_or_not(features: Features, count: int) -> Iterator[tuple[Features, ...]]:
    """So many inputs: all alike, and with other channels or other strides in the last."""
    yield (features,) * count
    if count > 1:
        *_, last = CHANNELS
        yield (*(features,) * (count - 1), tuple(evolve(f, channels=last) for f in features))
        if all(f.stride is not None for f in features):
            yield (*(features,) * (count - 1), tuple(evolve(f, stride=_doubled(f)) for f in features))


def _doubled(feature: Feature) -> Any:
    return None if feature.stride is None else feature.stride * 2
