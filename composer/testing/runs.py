"""One run of a part: the result of its contract, its module, and a call of it, as a model calls it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import partialmethod
from inspect import Parameter, signature
from io import BytesIO
from math import prod
from typing import Any
from unittest.mock import patch

import torch
from attrs import evolve, field, frozen
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from composer.encoder_info import describe, import_adapter
from composer.layouts import Feature, format_count
from composer.modules.base import fold_frames, module, unfold_frames
from composer.parts import Custom, Encoder, EncoderInfo, Part, ProbedEncoder
from composer.parts.base import Channels, contract
from composer.parts.rules import Outputs, Rejection, RejectionError, compute_implied_sizes, drop_frames
from composer.sizes import Conflict, SizeConstraint, intersect
from composer.testing.failures import ContractUncheckable, LawError, format_error
from composer.testing.inputs import Inputs, Size


def infer_outcome(part: Part, inputs: Inputs) -> Outputs | Rejection:
    """Return the result of the contract. Raises ContractUncheckable if it raises, or promises no feature."""
    try:
        declared = _get_encoder_info(part, inputs) if isinstance(part, ProbedEncoder) else part
        if isinstance(declared, Rejection):
            return declared
        result = contract(declared, *inputs.positional, **inputs.named)
        if isinstance(result, Outputs) and not result.features:
            raise TypeError("a contract must return at least one feature (got none)")
    except Exception as error:
        what = f"cannot check {part!r}: for {inputs}, its contract raises {format_error(error)}"
        raise ContractUncheckable(what) from error
    return result


def _get_encoder_info(part: ProbedEncoder, inputs: Inputs) -> EncoderInfo | Rejection:
    images = [image for (image,) in inputs.positional]
    named = {name: image for name, (image,) in inputs.named.items()}
    channels: Channels = tuple((name, image.channels) for name, image in named.items()) or images[0].channels
    return describe(part.copy_with_inputs(*images, **named), channels)


@frozen(repr=False)
class Run:
    """A part with inputs, for `batch` images of `size`, and the result of its contract.

    `accepted` holds runs with all the inputs that the part accepts.
    """

    part: Part
    inputs: Inputs
    outcome: Outputs | Rejection
    batch: int
    size: Size
    accepted: Sequence[Run] = field(default=(), eq=False)

    @property
    def outputs(self) -> Outputs:
        """The outputs that the contract promises."""
        assert isinstance(self.outcome, Outputs)
        return self.outcome

    @property
    def sizes(self) -> SizeConstraint | Conflict:
        """The image sizes at which the part and its inputs and outputs fit."""
        edges = (*self.inputs.edges, *self.outputs.features)
        return intersect([("part", self.outputs.sizes), *(("edge", compute_implied_sizes(f)) for f in edges)])

    def resize(self, height: int, width: int) -> Run | None:
        """Return the run with the smallest image that fits and is as large as this; None if there is none."""
        sizes = self.sizes
        size = None if isinstance(sizes, Conflict) else sizes.compute_padded_size(height, width)
        return None if size is None else evolve(self, size=size)

    def count_elements(self) -> int:
        """Return the numbers in the inputs and the promised outputs of one image."""
        outputs = self.outcome.features if isinstance(self.outcome, Outputs) else ()
        return sum(prod(f.shape(1, *self.size)) for f in (*self.inputs.edges, *outputs))

    def build(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Build the module in eval mode, with the same weights every time.

        It is built without pretrained weights, and a single-image encoder for one frame. Raises ContractUncheckable
        if it cannot be built.
        """
        try:
            return build_seeded(self._make).to(dtype)
        except Exception as error:
            what = f"cannot build the module of {self.part!r}: it raises {format_error(error)}\n  input     {self}"
            raise ContractUncheckable(what) from error

    def draw_tensors(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[list[Tensor]]:
        """Return normal random numbers of the inputs' shapes."""
        noise = torch.Generator().manual_seed(seed)

        def draw(feature: Feature) -> Tensor:
            shape = feature.shape(self.batch, *self.size)
            return torch.randn(shape, generator=noise, dtype=torch.float64).to(dtype)

        return [list(map(draw, features)) for features in self.inputs.all]

    def call(
        self,
        network: nn.Module,
        tensors: Sequence[Sequence[Tensor]] | None = None,
        mode: str = "",
        *,
        gradients: bool = False,
    ) -> tuple[Tensor, ...]:
        """Return the outputs for tensors, random ones by default. Raises LawError if the module raises."""
        try:
            with torch.set_grad_enabled(gradients):
                return self._call(network, self.draw_tensors() if tensors is None else tensors)
        except Exception as error:
            raise LawError(f"{mode}it raises {format_error(error)}") from error

    def _make(self) -> nn.Module:
        part = self.part
        if part.source is not None and (rejection := import_adapter(part.source)):
            raise RejectionError(rejection)
        frame = self.inputs.map_features(drop_frames) if self._is_per_frame else self.inputs
        named: dict[str, Any] = frame.named
        if isinstance(part, ProbedEncoder):
            named |= {"info": _get_encoder_info(part, self.inputs), "pretrained": False}
        network: nn.Module = module(part, *frame.positional, **named)
        network = deepcopy(network).eval() if isinstance(part, Custom) else network.eval()  # because laws change it
        if any(map(is_lazy, (*network.parameters(), *network.buffers()))):
            self._call(network, self.draw_tensors())
        return network

    def _call(self, network: nn.Module, tensors: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
        """Call an encoder with its image, or a dict of images by name; other parts with a list for each input."""
        count, names = len(self.inputs.positional), self.inputs.names
        if not isinstance(self.part, Encoder):
            return call_module(network, tensors[:count], dict(zip(names, tensors[count:], strict=True)), self.size)
        images = [fold_frames(x) if self._is_per_frame else x for (x, *_) in tensors]
        if isinstance(self.part, Custom):
            images = [x.clone() for x in images]  # as in a model: a custom encoder may write into its image
        results = to_tensors(network(dict(zip(names, images, strict=True)) if names else images[0]))
        if not self._is_per_frame or len(results) != len(self.outputs.features):
            return results
        axes, frames = self.get_batch_axes(), self.inputs.edges[0].frames
        return tuple(unfold_frames(x, axis, frames) for x, axis in zip(results, axes, strict=True))

    @property
    def _is_per_frame(self) -> bool:
        return isinstance(self.outcome, Outputs) and self.outcome.per_frame

    def get_batch_axes(self) -> list[int]:
        """Return the axis of the batch of each output."""
        return [f.axes.split().index("b") for f in self.outputs.features]

    def _repr_pretty_(self, printer: Any, _: bool) -> None:  # noqa: FBT001, Hypothesis prints arguments by it
        printer.text(f"<{self.part!r} with {self}>")

    def __str__(self) -> str:
        height, width = self.size
        return f"{self.inputs}, {format_count(self.batch, 'image')} of {height} × {width}"


# --- modules

BLOCK_SIZE = 16411
"""Random numbers drawn for a large tensor, which repeats them: a prime, so that rows of a weight differ."""


def build_seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """Build a module in eval mode, with the same weights every time; torch's random state is kept."""
    draws: dict[str, Any] = {name: partialmethod(_fill, getattr(Tensor, name)) for name in ("uniform_", "normal_")}
    with torch.random.fork_rng(devices=[]), patch.multiple(Tensor, **draws):
        torch.default_generator.manual_seed(0)
        return make().eval()


def _fill(tensor: Tensor, draw: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """Fill a tensor with repeated draws, because drawing is most of a build's time."""
    count = tensor.numel()
    block = draw(tensor.new_empty(min(count, BLOCK_SIZE)), *args, **kwargs)
    with torch.no_grad():
        return tensor.copy_(block.repeat(-(-count // BLOCK_SIZE))[:count].view(tensor.shape))


def call_module(
    network: nn.Module, inputs: Sequence[Sequence[Tensor]], named: Mapping[str, Sequence[Tensor]], size: Size
) -> tuple[Tensor, ...]:
    """Call a module with a list of tensors for each input, and with `image_size` if it takes that.

    TerraTorch also passes it to a neck that takes any keywords.
    """
    kinds = {name: p.kind for name, p in signature(network.forward).parameters.items()}
    takes_size = "image_size" in kinds or (not named and Parameter.VAR_KEYWORD in kinds.values())
    return to_tensors(network(*inputs, **named, **({"image_size": size} if takes_size else {})))


def to_tensors(out: Any) -> tuple[Tensor, ...]:
    """Return the output of a module as a tuple. Raises TypeError unless it is a tensor or an iterable of tensors."""
    outputs = (out,) if isinstance(out, Tensor) else tuple(out) if isinstance(out, Iterable) else (out,)
    if not all(isinstance(x, Tensor) for x in outputs) or isinstance(out, Mapping):
        raise TypeError(f"a module must return a tensor, or a list or tuple of tensors (got {type(out).__name__})")
    return outputs


# --- state

State = Mapping[str, bytes | None]
"""A fingerprint of each value, by its name; None for values that cannot be compared."""


def get_state(network: nn.Module) -> tuple[State, State]:
    """Return what a run must keep, and what may be a cache.

    A run must keep the `state_dict`, and public attributes that hold plain values or lists of them. Other attributes
    and unsaved buffers may be caches.
    """
    saved = network.state_dict()
    caches = {name: value for name, value in network.named_buffers() if name not in saved}
    for name, child in network.named_modules():
        for key in vars(child).keys() - vars(nn.Module()).keys():
            value = getattr(child, key)
            (saved if _is_persistent(key, value) else caches)[f"{name}.{key}".lstrip(".")] = value
    first, second = ({name: _compute_fingerprint(value) for name, value in state.items()} for state in (saved, caches))
    return first, second


def _is_persistent(name: str, value: Any) -> bool:
    is_list = isinstance(value, list | tuple) and not any(isinstance(entry, Tensor | nn.Module) for entry in value)
    return not name.startswith("_") and (is_list or isinstance(value, bool | int | float | str | bytes | None))


def list_changes(before: State, after: State) -> list[str]:
    """Return the names of the values that differ, have appeared or are gone."""
    return [name for name in dict.fromkeys((*before, *after)) if before.get(name) != after.get(name)]


class _FingerprintPickler(pickle.Pickler):
    """Pickle tensors by their numbers, NaN included, wherever they are stored."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        return tuple, ([str(value.dtype), *value.shape, flat.view(torch.uint8).numpy().tobytes()],)


def _compute_fingerprint(value: Any) -> bytes | None:
    stream = BytesIO()
    pickler = _FingerprintPickler(stream)
    pickler.fast = True  # without a memo, by which equal contents differ
    try:
        pickler.dump(value)
    except Exception:  # objects may refuse to be pickled in any way
        return None
    return stream.getvalue()
