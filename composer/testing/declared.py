"""A declared part, as something that is held to the laws: by its contract, and by its module."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from inspect import signature
from typing import Any

from attrs import frozen
from torch import Tensor, nn

from composer.contracts import Outputs, Rejection, contract
from composer.contracts.rules import drop_frames
from composer.facts import describe
from composer.feature import Feature, Features
from composer.libraries import import_adapter
from composer.modules import module
from composer.modules.frames import fold_frames, unfold_frames
from composer.parts import Channels, Custom, Encoder, EncoderInfo, Part, ProbedEncoder, get_part_name
from composer.testing.inputs import Inputs, iter_candidate_inputs
from composer.testing.subjects import Tensors, to_tensors


@frozen
class PartSubject:
    """A part, by its contract and its module. Of one that is probed its facts are asked for."""

    part: Part

    @property
    def name(self) -> str:
        """The declaration itself."""
        return repr(self.part)

    def iter_candidates(self) -> Iterable[Inputs]:
        """By the signature of its contract."""
        return iter_candidate_inputs(self.part)

    def outcome(self, inputs: Inputs) -> Outputs | Rejection | None:
        """Its contract's."""
        told: Any = self.part
        if isinstance(self.part, ProbedEncoder):
            told = _get_encoder_info(self.part, inputs)
            if isinstance(told, Rejection):
                return told
        outcome = contract(told, *inputs.positional, **dict(inputs.named))
        if isinstance(outcome, Rejection):
            return outcome
        features = outcome.features if isinstance(outcome, Outputs) else outcome
        if not isinstance(features, list | tuple) or not all(isinstance(one, Feature) for one in features):
            raise TypeError(f"what a contract gives is features, a Promise or a Refusal (got {outcome!r})")
        if not features:
            raise TypeError("what a contract gives is one feature at least (got none)")
        return outcome if isinstance(outcome, Outputs) else Outputs(features=features)

    def explain_rejection(self, inputs: Inputs) -> str:
        """The refusal's sentence."""
        outcome = self.outcome(inputs)
        return f"it {outcome.expected}" if isinstance(outcome, Rejection) else "no image size suits it"

    def fault(self, accepted: Sequence[Inputs], untaken: Sequence[Inputs]) -> str:  # noqa: ARG002
        """Nothing: what it says is held to what it does."""
        return ""

    def has_input_gradients(self) -> bool:
        """Of all but encoders, which are fed images."""
        return not isinstance(self.part, Encoder)

    def make(self, inputs: Inputs) -> nn.Module:
        """The module of the part, without published weights; a copy of one that is there already.

        An encoder of stills that is fed frames is made for one of them.
        """
        if self.part.source is not None and (refusal := import_adapter(self.part.source)):
            raise ValueError(f"{get_part_name(self.part)} {refusal.expected} (got {refusal.got}): {refusal.repair}")
        seen = (
            inputs.replace_features(tuple(map(_remove_frames, inputs.all)))
            if self._get_per_frame_outputs(inputs)
            else inputs
        )
        named: dict[str, Any] = dict(seen.named)
        if isinstance(self.part, ProbedEncoder):
            named |= {"facts": _get_encoder_info(self.part, inputs), "pretrained": False}
        made: nn.Module = module(self.part, *seen.positional, **named)
        return deepcopy(made) if isinstance(self.part, Custom) else made  # the laws change its type and its weights

    def call(self, network: nn.Module, inputs: Inputs, tensors: Tensors, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """An encoder is called with its image, or with several by name; and frame by frame, where it takes stills.
        Other parts are called with a list of tensors for each input.
        """
        if isinstance(self.part, Encoder):
            return self._run_encoder(network, inputs, tensors)
        count = len(inputs.positional)
        named: dict[str, Any] = dict(zip((name for name, _ in inputs.named), tensors[count:], strict=True))
        if "image_size" in signature(network.forward).parameters:
            named["image_size"] = size
        return to_tensors(network(*tensors[:count], **named))

    def has_expected_outputs(
        self, given: Sequence[Tensor], promise: Outputs, batch: int, height: int, width: int
    ) -> bool:
        """Whether every shape is as promised."""
        return [tuple(x.shape) for x in given] == [f.shape(batch, height, width) for f in promise.features]

    def _run_encoder(self, network: nn.Module, inputs: Inputs, tensors: Tensors) -> tuple[Tensor, ...]:
        promise = self._get_per_frame_outputs(inputs)
        images = [fold_frames(x) if promise else x for (x, *_) in tensors]
        if isinstance(self.part, Custom):
            images = [x.clone() for x in images]  # as a model does: it may write into its image
        names = [name for name, _ in inputs.named]
        given = to_tensors(network(dict(zip(names, images, strict=True)) if names else images[0]))
        if promise is None or len(given) != len(promise.features):
            return given
        axes = [f.axes.split().index("b") for f in promise.features]
        return tuple(unfold_frames(x, axis, inputs.edges[0].frames) for x, axis in zip(given, axes, strict=True))

    def _get_per_frame_outputs(self, inputs: Inputs) -> Outputs | None:
        """What an encoder of stills promises before frames; None of all else."""
        outcome = self.outcome(inputs) if isinstance(self.part, Encoder) else None
        return outcome if isinstance(outcome, Outputs) and outcome.per_frame else None


def _get_encoder_info(part: ProbedEncoder, inputs: Inputs) -> EncoderInfo | Rejection:
    """The facts of an encoder that is fed these images."""
    images = [image for (image,) in inputs.positional]
    named = {name: image for name, (image,) in inputs.named}
    channels: Channels = tuple((name, image.channels) for name, image in named.items()) or images[0].channels
    return describe(part.copy_with_inputs(*images, **named), channels)


def _remove_frames(features: Features) -> Features:
    return tuple(map(drop_frames, features))
