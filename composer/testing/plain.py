"""A plain module in TerraTorch's style, as something that is held to the laws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from inspect import signature
from typing import Any

import torch
from attrs import field, frozen
from torch import Tensor, nn

from composer.contracts import Promise, Refusal
from composer.feature import Feature
from composer.testing.broken import told
from composer.testing.inputs import Inputs, stacks
from composer.testing.subjects import Tensors, several


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
        return several(network(tensors[0], **({"image_size": size} if told else {})))

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
