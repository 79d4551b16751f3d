"""A declared part, as something that is held to the laws: by its contract, and by its module."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from inspect import signature
from typing import Any

from attrs import frozen
from torch import Tensor, nn

from composer.contracts import Promise, Refusal, contract
from composer.facts import describe
from composer.libraries import loaded
from composer.modules import module
from composer.parts import Encoder, Part, Probed, part_name
from composer.testing.inputs import Inputs, tried
from composer.testing.subjects import Tensors, several


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
            return several(network(tensors[0][0]))
        count = len(inputs.positional)
        named: dict[str, Any] = dict(zip((name for name, _ in inputs.named), tensors[count:], strict=True))
        if "image_size" in signature(network.forward).parameters:
            named["image_size"] = size
        return several(network(*tensors[:count], **named))

    def agrees(self, given: Sequence[Tensor], promise: Promise, batch: int, height: int, width: int) -> bool:
        """Whether every shape is as promised."""
        return [tuple(x.shape) for x in given] == [f.shape(batch, height, width) for f in promise.features]
