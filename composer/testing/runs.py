"""One run of a part: its inputs, the result of its contract, its module, and a call of it, as a model calls it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from inspect import signature
from math import prod
from typing import Any

import torch
from attrs import evolve, field, frozen
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from composer.encoder_info import import_adapter
from composer.layouts import Feature, Features, describe_features, format_count
from composer.modules.base import fold_frames, module, unfold_frames
from composer.parts import Custom, Encoder, Part, ProbedEncoder
from composer.parts.rules import Outputs, Rejection, RejectionError, compute_implied_sizes, drop_frames
from composer.sizes import Conflict, SizeConstraint, intersect
from composer.testing.failures import ContractUncheckable, LawError, format_error
from composer.testing.strategies import get_encoder_info, infer_part


@frozen
class Inputs:
    """The inputs of a part, by position and by name, each a tuple of features."""

    positional: tuple[Features, ...]
    named: Mapping[str, Features] = field(factory=dict)

    @property
    def all(self) -> tuple[Features, ...]:
        """Every input."""
        return (*self.positional, *self.named.values())

    @property
    def edges(self) -> Features:
        """Every feature of every input."""
        return tuple(feature for features in self.all for feature in features)

    def map_features(self, change: Callable[[Feature], Feature]) -> Inputs:
        """Return the same inputs with every feature changed."""
        several = [tuple(map(change, features)) for features in self.all]
        count = len(self.positional)
        return Inputs(tuple(several[:count]), dict(zip(self.named, several[count:], strict=True)))

    def __str__(self) -> str:
        named = [f"{name}: {describe_features(features)}" for name, features in self.named.items()]
        return "; ".join([*map(describe_features, self.positional), *named])


@frozen(repr=False)
class Run:
    """A part with inputs, and the outputs that its contract promises, for `batch` images of `size` reference pixels.

    Inputs that the contract rejects have no outputs.
    """

    part: Part
    inputs: Inputs
    outputs: Outputs
    rejection: Rejection | None = None
    batch: int = 1
    size: tuple[int, int] = (1, 1)

    @property
    def sizes(self) -> SizeConstraint | Conflict:
        """The image sizes at which the part and its inputs and outputs fit."""
        edges = (*self.inputs.edges, *self.outputs.features)
        return intersect([("part", self.outputs.sizes), *(("edge", compute_implied_sizes(f)) for f in edges)])

    def resize(self, height: int, width: int) -> Run | None:
        """Return the run with the smallest image that fits and is as large as this; None if there is none."""
        sizes = self.sizes
        size = None if self.rejection or isinstance(sizes, Conflict) else sizes.compute_padded_size(height, width)
        return None if size is None else evolve(self, size=size)

    def count_elements(self) -> int:
        """Return the numbers in the inputs and the promised outputs of one image."""
        return sum(prod(f.shape(1, *self.size)) for f in (*self.inputs.edges, *self.outputs.features))

    def build(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Build the module in eval mode, with the same weights every time.

        It is built without pretrained weights, and a single-image encoder for one frame. Raises ContractUncheckable
        if it cannot be built.
        """
        try:
            with seed_torch():
                return self.make().to(dtype)
        except Exception as error:
            what = f"cannot build the module of {self.part!r}: it raises {format_error(error)}\n  input     {self}"
            raise ContractUncheckable(what) from error

    def make(self) -> nn.Module:
        """Build the module in eval mode, with torch's random state. Raises whatever it raises."""
        part = self.part
        if part.source is not None and (rejection := import_adapter(part.source)):
            raise RejectionError(rejection)
        frame = self.inputs.map_features(drop_frames) if self.outputs.per_frame else self.inputs
        named: dict[str, Any] = {**frame.named}
        if isinstance(part, ProbedEncoder):
            info = get_encoder_info(part, *self.inputs.positional, **self.inputs.named)
            named |= {"info": info, "pretrained": False}
        network: nn.Module = module(part, *frame.positional, **named)
        network = deepcopy(network).eval() if isinstance(part, Custom) else network.eval()  # because laws change it
        if any(map(is_lazy, (*network.parameters(), *network.buffers()))):
            self.forward(network, self.draw_tensors())
        return network

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

    def forward(self, network: nn.Module, tensors: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
        """Call the module as a model does. Raises whatever it raises.

        An encoder gets its image, or a dict of images by name; another part a list for each input, and `image_size`
        if it takes that. TerraTorch also passes `image_size` to a neck that takes any keywords.
        """
        count, names, per_frame = len(self.inputs.positional), tuple(self.inputs.named), self.outputs.per_frame
        if not isinstance(self.part, Encoder):
            parameters = signature(network.forward).parameters.values()
            takes_size = any(p.name == "image_size" or (p.kind is p.VAR_KEYWORD and not names) for p in parameters)
            size = {"image_size": self.size} if takes_size else {}
            return to_tensors(network(*tensors[:count], **dict(zip(names, tensors[count:], strict=True)), **size))
        images = [fold_frames(x) if per_frame else x for (x, *_) in tensors]
        if isinstance(self.part, Custom):
            images = [x.clone() for x in images]  # as in a model: a custom encoder may write into its image
        results = to_tensors(network(dict(zip(names, images, strict=True)) if names else images[0]))
        if not per_frame or len(results) != len(self.outputs.features):
            return results
        axes, frames = self.get_batch_axes(), self.inputs.edges[0].frames
        return tuple(unfold_frames(x, axis, frames) for x, axis in zip(results, axes, strict=True))

    def get_batch_axes(self) -> list[int]:
        """Return the axis of the batch of each output."""
        return [f.axes.split().index("b") for f in self.outputs.features]

    def __str__(self) -> str:
        height, width = self.size
        return f"{self.inputs}, {format_count(self.batch, 'image')} of {height} × {width}"


def infer_run(part: Part, inputs: Inputs) -> Run:
    """Return a run with the result of the contract. Raises ContractUncheckable if it raises."""
    try:
        result = infer_part(part, *inputs.positional, **inputs.named)
    except Exception as error:
        what = f"cannot check {part!r}: for {inputs}, its contract raises {format_error(error)}"
        raise ContractUncheckable(what) from error
    return (
        Run(part, inputs, Outputs(features=()), result) if isinstance(result, Rejection) else Run(part, inputs, result)
    )


@contextmanager
def seed_torch() -> Iterator[None]:
    """Seed torch's random state in a context, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def to_tensors(out: Any) -> tuple[Tensor, ...]:
    """Return the output of a module as a tuple. Raises TypeError unless it is a tensor or an iterable of tensors."""
    outputs = (out,) if isinstance(out, Tensor) else tuple(out) if isinstance(out, Iterable) else (out,)
    if not all(isinstance(x, Tensor) for x in outputs) or isinstance(out, Mapping):
        raise TypeError(f"a module must return a tensor, or a list or tuple of tensors (got {type(out).__name__})")
    return outputs
