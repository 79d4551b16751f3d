"""One run of a part: the result of its contract, its module, and a call of it, as a model calls it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from inspect import signature
from math import prod
from typing import Any

import numpy as np
import torch
from attrs import evolve, frozen
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from composer.encoder_info import import_adapter
from composer.layouts import Feature, format_count
from composer.modules.base import fold_frames, module, unfold_frames
from composer.parts import Custom, Encoder, Part, ProbedEncoder
from composer.parts.rules import Outputs, Rejection, RejectionError, compute_implied_sizes, drop_frames
from composer.sizes import Conflict, SizeConstraint, intersect
from composer.testing.failures import ContractUncheckable, LawError, format_error
from composer.testing.inputs import Inputs, Size
from composer.testing.strategies import get_encoder_info, infer_part


def infer_outcome(part: Part, inputs: Inputs) -> Outputs | Rejection:
    """Return the result of the contract. Raises ContractUncheckable if it raises, or promises no feature."""
    try:
        result = infer_part(part, *inputs.positional, **inputs.named)
        if isinstance(result, Outputs) and not result.features:
            raise TypeError("a contract must return at least one feature (got none)")
    except Exception as error:
        what = f"cannot check {part!r}: for {inputs}, its contract raises {format_error(error)}"
        raise ContractUncheckable(what) from error
    return result


@frozen(repr=False)
class Run:
    """A part with inputs, for `batch` images of `size`, and the result of its contract."""

    part: Part
    inputs: Inputs
    outcome: Outputs | Rejection
    batch: int
    size: Size

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
                return self.forward(network, self.draw_tensors() if tensors is None else tensors)
        except Exception as error:
            raise LawError(f"{mode}it raises {format_error(error)}") from error

    def _make(self) -> nn.Module:
        part = self.part
        if part.source is not None and (rejection := import_adapter(part.source)):
            raise RejectionError(rejection)
        frame = self.inputs.map_features(drop_frames) if self._is_per_frame else self.inputs
        named: dict[str, Any] = frame.named
        if isinstance(part, ProbedEncoder):
            info = get_encoder_info(part, *self.inputs.positional, **self.inputs.named)
            named |= {"info": info, "pretrained": False}
        network: nn.Module = module(part, *frame.positional, **named)
        network = deepcopy(network).eval() if isinstance(part, Custom) else network.eval()  # because laws change it
        if any(map(is_lazy, (*network.parameters(), *network.buffers()))):
            self.forward(network, self.draw_tensors())
        return network

    def forward(self, network: nn.Module, tensors: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
        """Call the module as a model does. Raises whatever it raises.

        An encoder gets its image, or a dict of images by name; another part a list for each input, and `image_size`
        if it takes that. TerraTorch also passes `image_size` to a neck that takes any keywords.
        """
        count, names = len(self.inputs.positional), self.inputs.names
        if not isinstance(self.part, Encoder):
            parameters = signature(network.forward).parameters.values()
            takes_size = any(p.name == "image_size" or (p.kind is p.VAR_KEYWORD and not names) for p in parameters)
            size = {"image_size": self.size} if takes_size else {}
            return to_tensors(network(*tensors[:count], **dict(zip(names, tensors[count:], strict=True)), **size))
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


def build_seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """Build a module in eval mode, with the same weights every time; torch's random state is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return make().eval()


def to_tensors(out: Any) -> tuple[Tensor, ...]:
    """Return the output of a module as a tuple. Raises TypeError unless it is a tensor or an iterable of tensors."""
    outputs = (out,) if isinstance(out, Tensor) else tuple(out) if isinstance(out, Iterable) else (out,)
    if not all(isinstance(x, Tensor) for x in outputs) or isinstance(out, Mapping):
        raise TypeError(f"a module must return a tensor, or a list or tuple of tensors (got {type(out).__name__})")
    return outputs


# --- state

State = Mapping[str, object]
"""A fingerprint of each value, by its name."""


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


def _compute_fingerprint(value: Any) -> object:
    """Return a fingerprint of a value; None for a sparse tensor and a list that holds itself, which have none."""
    try:
        return _list_content(value)
    except (RuntimeError, TypeError):
        return None


def _list_content(value: Any) -> object:
    """Return the type, shape and bytes of a tensor or an array, in which NaN equals NaN; the text of other values."""
    if isinstance(value, dict):
        value = list(value.items())
    if isinstance(value, list | tuple):
        return [_list_content(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    if not isinstance(value, Tensor):
        return re.sub(r" at 0x\w+", "", repr(value))
    return value.dtype, value.shape, value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def list_changes(before: State, after: State) -> list[str]:
    """Return the names of the values that differ, have appeared or are gone."""
    return [name for name in dict.fromkeys((*before, *after)) if before.get(name) != after.get(name)]
