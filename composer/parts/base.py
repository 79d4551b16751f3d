"""The base classes of parts, and the open function `contract`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from attrs import evolve

from composer.layouts import Feature, Features
from composer.parts.rules import ContractResult, Outputs, Rejection

if TYPE_CHECKING:
    from composer.parts.encoders import EncoderInfo


Channels = int | tuple[tuple[str, int], ...]
"""The channels of an encoder's image, or of each of its images by name."""


class ContractFunction:
    """The open function `contract`: single dispatch on the class of the part, with one result type."""

    def __init__(self) -> None:
        rules = singledispatch(_reject_unregistered)
        self.register = rules.register
        self.dispatch = rules.dispatch

    def __call__(self, part: Any, /, *inputs: Features, **named: Features) -> ContractResult:
        """Return the features that `part` emits for these inputs and the image sizes it demands, or a `Rejection`.

        An input is a tuple of features; a part that joins takes several, by position or by name. Pure. Add your own
        part with `@composer.contract.register(ItsClass)`: the registered function returns features, `Outputs` or a
        `Rejection`. Raises TypeError where it returns anything else.
        """
        result = self.dispatch(type(part))(part, *inputs, **named)
        if isinstance(result, Outputs | Rejection):
            return result
        if isinstance(result, list | tuple) and all(isinstance(feature, Feature) for feature in result):
            return Outputs(features=result)
        raise TypeError(
            f"the contract of {type(part).__name__} must return features, Outputs or a Rejection (got {result!r})"
        )


def _reject_unregistered(part: Any, *_: Features, **__: Features) -> ContractResult | Features:
    return Rejection(
        code="part",
        expected="has no contract",
        got="a class that is not registered",
        fix=f"register one: @composer.contract.register({type(part).__name__})",
    )


contract = ContractFunction()


class Part:
    """A declaration: a frozen attrs class, whose fields are all that `contract` and `module` depend on.

    A part of a foreign library sets `source`: it is written `source/name`, and has a field `name`. Its other attributes
    are optional:

    - `names`: the valid names, where they are few, each with one line of description.
    - `defaults`: for each of these names the fields it has, with the meaning of None there; other fields stay None.
    - `refused`: known names that are not available, each with the reason and an alternative.
    - `outside`: patterns, in lower case, of names that users expect in this source, each with the reason.
    - `instead`: names that users of the library expect as fields, each with the alternative.

    `includes_head` is true for a part that predicts, as a class attribute or a field. `reads_stride` is true for a part
    whose module depends on the strides of its inputs, not only on their ratios: it is not shared with other strides.
    """

    __slots__ = ()
    source: ClassVar[str | None] = None
    names: ClassVar[Mapping[str, str] | None] = None
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({})
    refused: ClassVar[Mapping[str, tuple[str, str]]] = MappingProxyType({})
    outside: ClassVar[Mapping[str, str]] = MappingProxyType({})
    instead: ClassVar[Mapping[str, str]] = MappingProxyType({})
    reads_stride: ClassVar[bool] = False

    @property
    def includes_head(self) -> bool:
        """Return whether the output is a prediction, which takes no head."""
        return False

    def copy_with_encoder(self, encoder: Part | None) -> Self:  # noqa: ARG002
        """Return the part with the fields that its library derives from the only encoder that feeds it."""
        return self


class Encoder(Part):
    """Turns images into features."""

    __slots__ = ()


class ProbedEncoder(Encoder):
    """An encoder whose features are looked up: `describe` returns its `EncoderInfo`.

    `weights_bands` are the bands of its pretrained weights, where `build` matches their kernels with named bands.
    """

    __slots__ = ()
    weights_bands: ClassVar[tuple[str, ...]] = ()

    def copy_without_pretrained(self) -> Self:
        """Return the same encoder without weights, which do not affect its features."""
        return evolve(self, pretrained=False) if self.pretrained is not False else self  # type: ignore[attr-defined, misc]

    @property
    def takes_names(self) -> bool:
        """Return whether it takes several images by name."""
        return False

    @property
    def image_names(self) -> tuple[str, ...]:
        """Return the valid names of its images, where it takes several by name."""
        return ()

    def find_image_names(self, channels: tuple[int, ...]) -> tuple[str, ...] | None:  # noqa: ARG002
        """Return a name for each of several images of these channels; None where not all of them fit."""
        return None

    def copy_with_inputs(self, /, *images: Feature, **named: Feature) -> Self:  # noqa: ARG002
        """Return the same encoder with the open fields set that depend on its images."""
        return self

    def copy_with_bands(self, bands: Mapping[str | None, tuple[str, ...]]) -> Self | Rejection:  # noqa: ARG002
        """Return the same encoder with the bands of its images, by name, None for the only one; or a rejection."""
        return self

    def copy_with_image_size(self, height: int, width: int, info: EncoderInfo) -> Self | None:  # noqa: ARG002
        """Return the same encoder for images of this size; None where the size does not matter, or is set already.

        `info` describes the network without a size.
        """
        return None


class Neck(Part):
    """Turns features into features. A neck that joins branches takes several inputs."""

    __slots__ = ()


class Decoder(Part):
    """Turns features into one feature."""

    __slots__ = ()


class Head(Part):
    """Turns features, mostly one, into an output of the model: a prediction or an embedding."""

    __slots__ = ()

    @property
    def includes_head(self) -> bool:
        """Return True."""
        return True


def get_part_name(part: Part) -> str:
    """Return the name of a part as it is written in a file: `FCNDecoder`, `timm/resnet50`."""
    return type(part).__name__ if part.source is None else f"{part.source}/{part.name}"  # type: ignore[attr-defined]
