"""Declared parts as subjects of the laws, and the inputs they are tried with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from fractions import Fraction
from inspect import Parameter, signature
from itertools import product
from typing import Any, Protocol
from unittest.mock import patch

import torch
from attrs import evolve, frozen
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from composer.encoder_info import describe, import_adapter
from composer.layouts import Feature, Features, Image, describe_features
from composer.modules import module
from composer.modules.layers import fold_frames, unfold_frames
from composer.parts import Channels, Custom, Encoder, EncoderInfo, Part, ProbedEncoder, get_part_name
from composer.parts.base import contract
from composer.parts.rules import Outputs, Rejection, compute_implied_sizes, drop_frames
from composer.sizes import Conflict, SizeConstraint, intersect
from composer.testing.failures import ContractUncheckable, format_error
from composer.testing.strategies import CHANNELS, LAYOUTS, MAX_PYRAMID_LEVELS, list_strides

BLOCK_SIZE = 4099
"""Numbers drawn for a larger tensor, which repeats them: a prime, so that no two rows of a weight are equal."""


_CONVOLUTIONS = {getattr(F, f"conv{kind}{count}d") for kind in ("", "_transpose") for count in (1, 2, 3)}


_PRODUCTS = _CONVOLUTIONS | {F.linear}


@contextmanager
def draw_in_blocks() -> Iterator[None]:
    """Fill large tensors with a repeated block of random numbers: drawing weights is most of building a module."""
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


class HalfPrecisionEmulation(TorchFunctionMode):
    """Compute convolutions and linear layers of halves in single precision, and round: as devices do it.

    Processors may take thirty times as long in half precision.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)] if func in _PRODUCTS else []
        dtypes = {x.dtype for x in tensors}
        if len(dtypes) == 1 and dtypes < {torch.bfloat16, torch.float16}:
            named = {name: _to_single(x) for name, x in kwargs.items()}
            return func(*map(_to_single, args), **named).to(tensors[0].dtype)
        return func(*args, **kwargs)


def _to_single(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) else x


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


Tensors = Sequence[Sequence[Tensor]]
"""A list of tensors for each input."""


class Subject(Protocol):
    """Something that takes features and gives features, and says what it gives before it runs."""

    @property
    def name(self) -> str:
        """What it is called in a failure."""

    def iter_candidates(self) -> Iterable[Inputs]:
        """What it is tried with."""

    def outcome(self, inputs: Inputs) -> Outputs | Rejection | None:
        """What it says of these inputs; None of those that it cannot be asked about."""

    def explain_rejection(self, inputs: Inputs) -> str:
        """Why it does not take these inputs, in its own words."""

    def fault(self, accepted: Sequence[Inputs], untaken: Sequence[Inputs]) -> str:
        """What shows already that it is wrong, before any law is tried; nothing where nothing does."""

    def has_input_gradients(self) -> bool:
        """Whether what lies before it in a model learns through it: it does not before an encoder."""

    def make(self, inputs: Inputs) -> nn.Module:
        """Its module for these inputs."""

    def call(self, network: nn.Module, inputs: Inputs, tensors: Tensors, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """What its module gives, called as a model calls it for an image of this size."""

    def has_expected_outputs(
        self, given: Sequence[Tensor], promise: Outputs, batch: int, height: int, width: int
    ) -> bool:
        """Whether tensors are what was promised."""


def run_query(subject: Subject, inputs: Inputs) -> Outputs | Rejection | None:
    """What a subject says of inputs. Raises ContractUncheckable where saying it fails: what is promised is not known then."""
    try:
        return subject.outcome(inputs)
    except Exception as error:
        what = (
            f"cannot check {subject.name}: for {'; '.join(inputs.sentences)}, its contract raises {format_error(error)}"
        )
        raise ContractUncheckable(what) from error


def to_tensors(out: Any) -> tuple[Tensor, ...]:
    """What a module gives, as a tuple. Raises TypeError where that is neither a tensor nor some of them."""
    given = (out,) if isinstance(out, Tensor) else tuple(out) if isinstance(out, Iterable) else (out,)
    if not all(isinstance(x, Tensor) for x in given) or isinstance(out, Mapping):
        kind = "None" if out is None else f"a {type(out).__name__}"
        raise TypeError(f"a list or a tuple of tensors is wanted, and it gives {kind}")
    return given


def find_valid_sizes(inputs: Inputs, promise: Outputs) -> SizeConstraint | None:
    """The image sizes that inputs, outputs and the part itself admit; None where there are none."""
    edges = (*inputs.edges, *promise.features)
    sizes = intersect([("part", promise.sizes), *(("edge", compute_implied_sizes(f)) for f in edges)])
    return None if isinstance(sizes, Conflict) else sizes


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
        if isinstance(outcome, Outputs) and not outcome.features:
            raise TypeError("what a contract gives is one feature at least (got none)")
        return outcome

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
