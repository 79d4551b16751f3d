"""What is held to the laws: a declared part, or a plain module in TerraTorch's style. Each says what it promises."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from inspect import signature
from typing import Any, Protocol

import torch
from attrs import field, frozen
from torch import Tensor, nn

from composer.contracts import Promise, Refusal, contract
from composer.contracts.rules import needed
from composer.facts import describe
from composer.feature import Feature
from composer.libraries import loaded
from composer.modules import module
from composer.parts import Encoder, Part, Probed, part_name
from composer.sizes import Conflict, Sizes, intersect
from composer.testing.broken import told
from composer.testing.inputs import Inputs, stacks, tried

Tensors = Sequence[Sequence[Tensor]]
"""A list of tensors for each input."""


class Subject(Protocol):
    """Something that takes features and gives features, and says what it gives before it runs."""

    @property
    def name(self) -> str:
        """What it is called in a failure."""

    def candidates(self) -> Iterable[Inputs]:
        """What it is tried with."""

    def outcome(self, inputs: Inputs) -> Promise | Refusal | None:
        """What it says of these inputs; None of those that it cannot be asked about."""

    def why_not(self, inputs: Inputs) -> str:
        """Why it does not take these inputs, in its own words."""

    def make(self, inputs: Inputs) -> nn.Module:
        """Its module for these inputs."""

    def call(self, network: nn.Module, inputs: Inputs, tensors: Tensors, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """What its module gives, called as a model calls it for an image of this size."""

    def agrees(self, given: Sequence[Tensor], promise: Promise, batch: int, height: int, width: int) -> bool:
        """Whether tensors are what was promised."""


@frozen
class Declared:
    """A part, by its contract and its module. Of one that is probed its facts are asked for."""

    part: Part

    @property
    def name(self) -> str:
        """The declaration itself."""
        return repr(self.part)

    def candidates(self) -> Iterable[Inputs]:
        """By the signature of its contract."""
        return tried(self.part)

    def outcome(self, inputs: Inputs) -> Promise | Refusal | None:
        """Its contract's. An encoder of stills before frames is the model's affair, and is passed over."""
        told: Any = self.part
        if isinstance(self.part, Probed):
            (image,) = inputs.positional[0]
            told = describe(self.part.fed(image), image.channels)
            if isinstance(told, Refusal):
                return told
        outcome = contract(told, *inputs.positional, **dict(inputs.named))
        outcome = outcome if isinstance(outcome, Promise | Refusal) else Promise(features=outcome)
        return None if isinstance(outcome, Promise) and outcome.per_frame else outcome

    def why_not(self, inputs: Inputs) -> str:
        """The refusal's sentence."""
        outcome = self.outcome(inputs)
        return f"it {outcome.expected}" if isinstance(outcome, Refusal) else "no image size suits it"

    def make(self, inputs: Inputs) -> nn.Module:
        """The module of the part, without published weights."""
        if self.part.source is not None and (refusal := loaded(self.part.source)):
            raise ValueError(f"{part_name(self.part)} {refusal.expected} (got {refusal.got}): {refusal.repair}")
        named: dict[str, Any] = dict(inputs.named)
        if isinstance(self.part, Probed):
            (image,) = inputs.positional[0]
            named |= {"facts": describe(self.part.fed(image), image.channels), "pretrained": False}
        made: nn.Module = module(self.part, *inputs.positional, **named)
        return made

    def call(self, network: nn.Module, inputs: Inputs, tensors: Tensors, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """An encoder is called with its image, other parts with a list of tensors for each input."""
        if isinstance(self.part, Encoder):
            return _several(network(tensors[0][0]))
        count = len(inputs.positional)
        named: dict[str, Any] = dict(zip((name for name, _ in inputs.named), tensors[count:], strict=True))
        if "image_size" in signature(network.forward).parameters:
            named["image_size"] = size
        return _several(network(*tensors[:count], **named))

    def agrees(self, given: Sequence[Tensor], promise: Promise, batch: int, height: int, width: int) -> bool:
        """Whether every shape is as promised."""
        return [tuple(x.shape) for x in given] == [f.shape(batch, height, width) for f in promise.features]


@frozen
class Plain:
    """A neck that is a plain module: `cls(channel_list, …)`, `process_channel_list(channel_list)`, `forward(features)`.

    It promises how many features it gives and their channels, at the second axis of a map or a vector, at the last
    one of tokens; and says not what it takes: that is tried, on an image of 32 × 32.
    """

    made: type[nn.Module] | nn.Module
    arguments: Mapping[str, Any] = field(factory=dict)

    @property
    def name(self) -> str:
        """The class, or the class of the module."""
        one = self.made if isinstance(self.made, type) else type(self.made)
        return f"{one.__name__}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"

    def candidates(self) -> Iterator[Inputs]:
        """Maps and tokens; of a module that is made already those of its `channel_list` alone."""
        wanted = None if isinstance(self.made, type) else list(getattr(self.made, "channel_list", []))
        for features in stacks():
            if features[0].axes in ("b c h w", "b n c") and features[0].frames == 1 and features[0].channels > 1:
                channels = [f.channels for f in features]
                if not wanted:
                    yield Inputs((features,))
                elif len(wanted) == len(channels):
                    yield Inputs((tuple(_widened(f, c) for f, c in zip(features, wanted, strict=True)),))

    def outcome(self, inputs: Inputs) -> Promise | Refusal | None:
        """Features with the channels that it says; what it cannot run is not asked about."""
        try:
            channels, given = self._run(inputs)
        except Exception:  # whatever a module raises that was not made for this
            return None
        return Promise(features=[_said(c, x) for c, x in zip(channels, _stretched(given, len(channels)), strict=True)])

    def why_not(self, inputs: Inputs) -> str:
        """What it raises."""
        try:
            self._run(inputs)
        except Exception as error:
            return f"it raises {told(error)}"
        return "it gives nothing"

    def _run(self, inputs: Inputs) -> tuple[list[int], tuple[Tensor, ...]]:
        """The channels that it says, and what it gives for two images of 32 × 32."""
        (features,) = inputs.positional
        network = self.make(inputs).eval()
        channels = network.process_channel_list([f.channels for f in features])  # type: ignore[operator]
        with torch.no_grad():
            given = self.call(network, inputs, [[torch.zeros(f.shape(2, 32, 32)) for f in features]], (32, 32))
        if not given:
            raise ValueError("no features, where one at least is wanted")
        return list(channels), given

    def make(self, inputs: Inputs) -> nn.Module:
        """The module itself, or one of its class for the channels of the inputs."""
        if isinstance(self.made, nn.Module):
            return deepcopy(self.made)  # the laws change its type and its mode
        (features,) = inputs.positional
        return self.made([f.channels for f in features], **self.arguments)

    def call(self, network: nn.Module, inputs: Inputs, tensors: Tensors, size: tuple[int, int]) -> tuple[Tensor, ...]:  # noqa: ARG002
        """With the features, and the image's size where its `forward` has any keywords, as TerraTorch calls it."""
        parameters = signature(network.forward).parameters
        told = "image_size" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        return _several(network(tensors[0], **({"image_size": size} if told else {})))

    def agrees(self, given: Sequence[Tensor], promise: Promise, batch: int, height: int, width: int) -> bool:  # noqa: ARG002
        """Whether it gives as many features as it says, of as many channels, and a batch of the images' number."""
        return len(given) == len(promise.features) and all(
            x.shape[0] == batch and x.shape[_channel_axis(x)] == f.channels
            for x, f in zip(given, promise.features, strict=True)
        )


def is_plain(thing: object) -> bool:
    """Whether something is a neck in TerraTorch's style, or the class of one."""
    one = thing if isinstance(thing, type) else type(thing)
    return issubclass(one, nn.Module) and callable(getattr(one, "process_channel_list", None))


def _several(out: Any) -> tuple[Tensor, ...]:
    given = (out,) if isinstance(out, Tensor) else tuple(out)
    if not all(isinstance(x, Tensor) for x in given) or isinstance(out, Mapping):
        raise TypeError(f"a list or a tuple of tensors is wanted, and it gives a {type(out).__name__}")
    return given


def sizes_of(inputs: Inputs, promise: Promise) -> Sizes | None:
    """The image sizes that inputs, outputs and the part itself admit; None where there are none."""
    edges = (*inputs.edges, *promise.features)
    sizes = intersect([("part", promise.sizes), *(("edge", needed(f)) for f in edges)])
    return None if isinstance(sizes, Conflict) else sizes


def _widened(feature: Feature, channels: int) -> Feature:
    return Feature(channels=channels, stride=feature.stride, axes=feature.axes, prefix=feature.prefix)


def _said(channels: int, x: Tensor) -> Feature:
    """A feature of so many channels; of its grid nothing is said, and nothing is asked of it."""
    axes = {2: "b c", 3: "b n c"}.get(x.dim(), "b c h w")
    return Feature(channels=channels, axes=axes, stride=None if axes == "b c" else 1)


def _stretched(given: Sequence[Tensor], count: int) -> list[Tensor]:
    return [*given, *[given[-1]] * count][:count]


def _channel_axis(x: Tensor) -> int:
    return 2 if x.dim() == 3 else min(1, x.dim() - 1)
