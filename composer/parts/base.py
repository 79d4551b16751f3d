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
"""The channels of an encoder's image; of several, those of each by name."""


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
        kind="raises",
        expected="has no contract",
        got="a class that is not registered",
        repair=f"register one: @composer.contract.register({type(part).__name__})",
    )


contract = ContractFunction()


class Part:
    """A declaration: a frozen attrs class whose fields are all that `contract` and `module` are told.

    `source` is set by a part that names something in a foreign library: it is written `source/name`, and has a
    field `name`; `names` holds the names where there are only so many, each with a line on what it does, and `defaults`
    the fields that each of them has, with what None stands for there; its other fields stay None. `refused` holds names
    of the source that are known and cannot be had, each with the reason and another name that will do; `moved` what
    names that the library knows begin with, and what the part's name begins with here; `outside` patterns, in lower
    case, of names that are looked for in this source and are not in it, each with the reason. `instead` holds names
    that are not fields, although users of the library may expect so, each with what to do instead. A part that predicts
    says so in `includes_head`, as a class or in a field. `reads_stride` is true for a part whose module depends on the
    strides of its inputs, and not only on the ratios of them: it is not shared with inputs of other strides.
    """

    __slots__ = ()
    source: ClassVar[str | None] = None
    names: ClassVar[Mapping[str, str] | None] = None
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({})
    renamed_prefixes: ClassVar[Mapping[str, str]] = MappingProxyType({})
    refused: ClassVar[Mapping[str, tuple[str, str]]] = MappingProxyType({})
    outside: ClassVar[Mapping[str, str]] = MappingProxyType({})
    instead: ClassVar[Mapping[str, str]] = MappingProxyType({})
    reads_stride: ClassVar[bool] = False

    @property
    def includes_head(self) -> bool:
        """Whether the output is a prediction, which takes no head."""
        return False

    def copy_with_encoder(self, encoder: Part | None) -> Self:  # noqa: ARG002
        """Return the part with the fields set that its library derives from the encoder that feeds it, if only one."""
        return self


class Encoder(Part):
    """From an image to features."""

    __slots__ = ()


class ProbedEncoder(Encoder):
    """An encoder whose features are a fact about the world: `describe` is asked for them."""

    __slots__ = ()

    def copy_without_pretrained(self) -> Self:
        """The same without weights: where they come from says nothing of what an encoder gives."""
        return evolve(self, pretrained=False) if self.pretrained is not False else self  # type: ignore[attr-defined, misc]

    @property
    def takes_names(self) -> bool:
        """Whether it takes several images, each by a name."""
        return False

    @property
    def image_names(self) -> tuple[str, ...]:
        """The names that it knows for images, where it takes several by name."""
        return ()

    def find_image_names(self, channels: tuple[int, ...]) -> tuple[str, ...] | None:  # noqa: ARG002
        """A name for each of several images of so many channels; None where it has not as many that fit."""
        return None

    def copy_with_inputs(self, /, *images: Feature, **named: Feature) -> Self:  # noqa: ARG002
        """The same, as told by the images that it is fed: what depends on them, and the part leaves open."""
        return self

    def copy_with_image_size(self, height: int, width: int, facts: EncoderInfo) -> Self | None:  # noqa: ARG002
        """Return the same, made for images of this size; None where its size does not matter, or is written.

        `facts` are those of the network as it is made without a size.
        """
        return None


class Neck(Part):
    """From features to features. A neck that joins branches takes several inputs."""

    __slots__ = ()


class Decoder(Part):
    """From features to one feature."""

    __slots__ = ()


class Head(Part):
    """From features, mostly from one, to what leaves the model: a prediction, or an embedding."""

    __slots__ = ()

    @property
    def includes_head(self) -> bool:
        """Always true."""
        return True


def get_part_name(part: Part) -> str:
    """The name of a part as it is written in a file: `FCNDecoder`, `timm/resnet50`."""
    return type(part).__name__ if part.source is None else f"{part.source}/{part.name}"  # type: ignore[attr-defined]
