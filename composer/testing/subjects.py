"""The things that laws check: a declared part, by its contract and its module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from inspect import signature
from typing import Any
from unittest.mock import patch

import torch
from attrs import frozen
from torch import Tensor, nn

from composer.encoder_info import describe, import_adapter
from composer.modules.base import fold_frames, module, unfold_frames
from composer.parts import Custom, Encoder, EncoderInfo, Part, ProbedEncoder
from composer.parts.base import Channels, contract, get_part_name
from composer.parts.rules import Outputs, Rejection, drop_frames
from composer.testing.failures import ContractUncheckable, format_error
from composer.testing.inputs import ClassifiedInputs, Inputs, iter_candidate_inputs

Tensors = Sequence[Sequence[Tensor]]
"""A list of tensors for each input."""

Size = tuple[int, int]


class Subject:
    """Something with a contract and a module."""

    @property
    def name(self) -> str:
        """The name in messages."""
        raise NotImplementedError

    @property
    def has_input_gradients(self) -> bool:
        """True if gradients must flow to the inputs: not for encoders, which get images."""
        return True

    def iter_candidates(self) -> Iterable[Inputs]:
        """Yield the inputs to try."""
        raise NotImplementedError

    def infer(self, inputs: Inputs) -> Outputs | Rejection | None:
        """Return the contract's result; None if the subject cannot run these inputs at all."""
        raise NotImplementedError

    def make(self, inputs: Inputs) -> nn.Module:
        """Build the module for these inputs."""
        raise NotImplementedError

    def call(self, network: nn.Module, inputs: Inputs, tensors: Tensors, size: Size) -> tuple[Tensor, ...]:
        """Call the module as a model does, for an image of this size."""
        raise NotImplementedError

    def has_expected_outputs(self, outputs: Sequence[Tensor], expected: Outputs, batch: int, size: Size) -> bool:
        """Return whether tensors are as the contract says."""
        raise NotImplementedError

    def explain_rejection(self, inputs: Inputs) -> str:
        """Return why inputs are not accepted."""
        outcome = self.infer(inputs)
        return f"it {outcome.expected}" if isinstance(outcome, Rejection) else "no image size fits"

    def find_fault(self, accepted: Sequence[Inputs], failed: Sequence[Inputs]) -> str:  # noqa: ARG002
        """Return a bug that is known before any law runs, or an empty string."""
        return ""

    def run_query(self, inputs: Inputs) -> Outputs | Rejection | None:
        """Return `infer(inputs)`. Raises ContractUncheckable if the contract raises."""
        try:
            return self.infer(inputs)
        except Exception as error:
            what = f"cannot check {self.name}: for {inputs}, its contract raises {format_error(error)}"
            raise ContractUncheckable(what) from error


def classify_inputs(subject: Subject, candidates: Iterable[Inputs]) -> ClassifiedInputs:
    """Sort candidates by the contract's result. Raises ContractUncheckable if the contract raises."""
    accepted: list[Inputs] = []
    rejected: list[Inputs] = []
    failed: list[Inputs] = []
    for inputs in candidates:
        outcome = subject.run_query(inputs)
        (accepted if isinstance(outcome, Outputs) else rejected if outcome is not None else failed).append(inputs)
    others = (*rejected, *failed)
    reason = subject.explain_rejection(others[0]) if others else ""
    fault = subject.find_fault(accepted, failed)
    return ClassifiedInputs(tuple(accepted), tuple(rejected), tuple(failed), reason, fault)


def to_tensors(out: Any) -> tuple[Tensor, ...]:
    """Return the output of a module as a tuple. Raises TypeError unless it is a tensor or an iterable of tensors."""
    outputs = (out,) if isinstance(out, Tensor) else tuple(out) if isinstance(out, Iterable) else (out,)
    if not all(isinstance(x, Tensor) for x in outputs) or isinstance(out, Mapping):
        kind = "None" if out is None else f"a {type(out).__name__}"
        raise TypeError(f"a module must return a tensor, or a list or tuple of tensors (got {kind})")
    return outputs


@frozen
class PartSubject(Subject):
    """A declared part."""

    part: Part

    @property
    def name(self) -> str:
        """The declaration."""
        return repr(self.part)

    @property
    def has_input_gradients(self) -> bool:
        """True if the part is not an encoder."""
        return not isinstance(self.part, Encoder)

    def iter_candidates(self) -> Iterable[Inputs]:
        """Yield inputs that fit the signature of the contract."""
        return iter_candidate_inputs(self.part)

    def infer(self, inputs: Inputs) -> Outputs | Rejection | None:
        """Return the result of the contract. Raises TypeError for one without a feature."""
        declared: Any = self.part
        if isinstance(self.part, ProbedEncoder):
            declared = _get_encoder_info(self.part, inputs)
            if isinstance(declared, Rejection):
                return declared
        result = contract(declared, *inputs.positional, **dict(inputs.named))
        if isinstance(result, Outputs) and not result.features:
            raise TypeError("a contract must return at least one feature (got none)")
        return result

    def make(self, inputs: Inputs) -> nn.Module:
        """Build the module without pretrained weights; a `Custom` module is copied, because laws change it.

        A single-image encoder with frames for inputs is built for one frame.
        """
        if self.part.source is not None and (refusal := import_adapter(self.part.source)):
            raise ValueError(f"{get_part_name(self.part)} {refusal.expected} (got {refusal.got}): {refusal.fix}")
        if self._get_per_frame_outputs(inputs):
            frame = inputs.replace_features(tuple(tuple(map(drop_frames, features)) for features in inputs.all))
        else:
            frame = inputs
        named: dict[str, Any] = dict(frame.named)
        if isinstance(self.part, ProbedEncoder):
            named |= {"facts": _get_encoder_info(self.part, inputs), "pretrained": False}
        network: nn.Module = module(self.part, *frame.positional, **named)
        return deepcopy(network) if isinstance(self.part, Custom) else network

    def call(self, network: nn.Module, inputs: Inputs, tensors: Tensors, size: Size) -> tuple[Tensor, ...]:
        """Call an encoder with its image, or a dict of images by name; other parts with a list for each input."""
        if isinstance(self.part, Encoder):
            return self._call_encoder(network, inputs, tensors)
        count = len(inputs.positional)
        named: dict[str, Any] = dict(zip((name for name, _ in inputs.named), tensors[count:], strict=True))
        if "image_size" in signature(network.forward).parameters:
            named["image_size"] = size
        return to_tensors(network(*tensors[:count], **named))

    def has_expected_outputs(self, outputs: Sequence[Tensor], expected: Outputs, batch: int, size: Size) -> bool:
        """Return whether every shape is as inferred."""
        return [tuple(x.shape) for x in outputs] == [f.shape(batch, *size) for f in expected.features]

    def _call_encoder(self, network: nn.Module, inputs: Inputs, tensors: Tensors) -> tuple[Tensor, ...]:
        """Call an encoder; a single-image encoder runs on each frame."""
        per_frame = self._get_per_frame_outputs(inputs)
        images = [fold_frames(x) if per_frame else x for (x, *_) in tensors]
        if isinstance(self.part, Custom):
            images = [x.clone() for x in images]  # as in a model: a custom encoder may write into its image
        names = [name for name, _ in inputs.named]
        outputs = to_tensors(network(dict(zip(names, images, strict=True)) if names else images[0]))
        if per_frame is None or len(outputs) != len(per_frame.features):
            return outputs
        axes = [f.axes.split().index("b") for f in per_frame.features]
        return tuple(unfold_frames(x, axis, inputs.edges[0].frames) for x, axis in zip(outputs, axes, strict=True))

    def _get_per_frame_outputs(self, inputs: Inputs) -> Outputs | None:
        outcome = self.infer(inputs) if isinstance(self.part, Encoder) else None
        return outcome if isinstance(outcome, Outputs) and outcome.per_frame else None


def _get_encoder_info(part: ProbedEncoder, inputs: Inputs) -> EncoderInfo | Rejection:
    images = [image for (image,) in inputs.positional]
    named = {name: image for name, (image,) in inputs.named}
    channels: Channels = tuple((name, image.channels) for name, image in named.items()) or images[0].channels
    return describe(part.copy_with_inputs(*images, **named), channels)


BLOCK_SIZE = 4099
"""Random numbers drawn for a large tensor, which repeats them: a prime, so that rows of a weight differ."""


@contextmanager
def draw_in_blocks() -> Iterator[None]:
    """Fill large tensors with a repeated block of random numbers, because drawing them is most of a build's time."""
    uniform, normal = _wrap_draw(Tensor.uniform_), _wrap_draw(Tensor.normal_)
    with patch.object(Tensor, "uniform_", uniform), patch.object(Tensor, "normal_", normal):
        yield


def _wrap_draw(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def fill(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        count = tensor.numel()
        if count <= BLOCK_SIZE or not tensor.is_contiguous() or (tensor.requires_grad and torch.is_grad_enabled()):
            return draw(tensor, *args, **kwargs)
        block = draw(tensor.new_empty(BLOCK_SIZE), *args, **kwargs)
        tensor.view(-1).copy_(block.repeat(-(-count // BLOCK_SIZE))[:count])
        return tensor

    return fill
