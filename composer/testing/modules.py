"""Plain necks: modules without a contract, in TerraTorch's style."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from fractions import Fraction
from inspect import signature
from typing import Any

import torch
from attrs import evolve, field, frozen
from torch import Tensor, nn

from composer.layouts import MAP, TOKENS, Feature, Features, describe_features
from composer.parts.rules import Outputs, Rejection, compute_exact_multiple, compute_min_cells
from composer.sizes import SizeConstraint
from composer.testing.failures import format_error
from composer.testing.inputs import Inputs, iter_stacks
from composer.testing.strategies import MAX_PYRAMID_LEVELS
from composer.testing.subjects import Size, Subject, Tensors, draw_in_blocks, to_tensors

MAX_SIZE_TRIES = 100

MAX_PROBE_CELLS = 200
"""Cells of a level up to which a probe runs at two sizes."""

BUG_ERRORS = (IndexError, NameError, AttributeError)
"""Errors that show a bug, rather than inputs of another kind."""


def is_plain_neck(thing: object) -> bool:
    """Return whether something is a neck in TerraTorch's style, or its class."""
    cls = thing if isinstance(thing, type) else type(thing)
    return issubclass(cls, nn.Module) and callable(getattr(cls, "process_channel_list", None))


def probe_sizes(features: Features, sizes: SizeConstraint) -> tuple[Size, Size]:
    """Return a portrait and a landscape size for a probe, of at least three cells a side.

    No side of a grid and no number of tokens equals a number of channels, so that no axis is confused by accident.
    """
    step = compute_exact_multiple(*features).multiple
    fewest = max(3, -(-sizes.least // step))
    channels = {feature.channels for feature in features}
    for first in range(fewest, fewest + MAX_SIZE_TRIES):
        portrait, landscape = (first * step, (first + 2) * step), ((first + 2) * step, first * step)
        if not any(channels & _collect_cell_counts(f, size) for f in features for size in (portrait, landscape)):
            break
    return portrait, landscape


def _collect_cell_counts(feature: Feature, size: Size) -> set[int]:
    if feature.stride is None:
        return set()
    shape = dict(zip(feature.axes.split(), feature.shape(2, *size), strict=True))
    return {count for axis, count in shape.items() if axis in "hwn"} | {feature.cells(side) for side in size}


@frozen
class ProbeResult:
    """The outcome of a probe: the outputs, or the error that the neck raises.

    `swapped` is the first output map with rows for columns, or None; `size` is the size of the image.
    """

    outputs: Outputs | None = None
    error: Exception | None = None
    swapped: int | None = None
    size: Size = (0, 0)


@frozen
class ModuleSubject(Subject):
    """A plain neck: `cls(channel_list, …)`, `process_channel_list(channel_list)`, `forward(features)`.

    Its contract is the number of outputs and their channels: axis 1 of maps and vectors, the last axis of tokens.
    Heights and widths are not part of it. Which inputs it accepts is found by running it on two images that are not
    square. `least` is the smallest number of cells a side of its inputs.
    """

    neck: type[nn.Module] | nn.Module
    arguments: Mapping[str, Any] = field(factory=dict)
    least: int = 1
    _probes: dict[Inputs, ProbeResult] = field(factory=dict, init=False, eq=False, repr=False)

    @property
    def name(self) -> str:
        """The class and its arguments."""
        cls = self.neck if isinstance(self.neck, type) else type(self.neck)
        return f"{cls.__name__}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"

    def iter_candidates(self) -> Iterator[Inputs]:
        """Yield maps and tokens; for a module, only those with its `channel_list`."""
        widths = None if isinstance(self.neck, type) else list(getattr(self.neck, "channel_list", []))
        for features in iter_stacks():
            if not _is_candidate(features):
                continue
            if not widths:
                yield Inputs((features,))
            elif len(widths) == len(features):
                yield Inputs((tuple(evolve(f, channels=c) for f, c in zip(features, widths, strict=True)),))

    def infer(self, inputs: Inputs) -> Outputs | Rejection | None:
        """Return features with the channels of `process_channel_list`; None for inputs that it cannot run."""
        outputs = self._probe(inputs).outputs
        return None if outputs is None else evolve(outputs, sizes=self._get_size_constraint(inputs))

    def explain_rejection(self, inputs: Inputs) -> str:
        """Return the error that it raises, and whether only for images that are not square."""
        error = self._probe(inputs).error
        if error is None:
            return "no image size fits"
        (features,) = inputs.positional
        height, _ = probe_sizes(features, self._get_size_constraint(inputs))[0]
        is_square_only = self._run_probe(inputs, ((height, height),)).error is None
        return f"{'for images that are not square ' if is_square_only else ''}it raises {format_error(error)}"

    def find_fault(self, accepted: Sequence[Inputs], failed: Sequence[Inputs]) -> str:
        """Return a message on swapped rows and columns, or on an error that every stack of several levels raises."""
        for inputs in accepted:
            probe = self._probe(inputs)
            if probe.swapped is not None:
                height, width = probe.size
                return f"feature {probe.swapped} has rows for columns, for {inputs}, 2 images of {height} × {width}"
        stacks = [inputs.positional[0] for inputs in accepted if inputs.edges]
        for axes in sorted({f[0].axes for f in stacks if len(f) == 1} - {f[0].axes for f in stacks if len(f) > 1}):
            similar = [inputs for inputs in failed if _is_uniform(inputs.positional[0], axes)]
            errors = [self._probe(inputs).error for inputs in similar]
            if errors and errors[0] is not None and all(isinstance(error, BUG_ERRORS) for error in errors):
                text = describe_features(similar[0].positional[0])
                return f"it accepts one level, but not several: for {text}, it raises {format_error(errors[0])}"
        return ""

    def make(self, inputs: Inputs) -> nn.Module:
        """Build the class for the channels of the inputs, or copy the module, because laws change it."""
        if isinstance(self.neck, nn.Module):
            return deepcopy(self.neck)
        (features,) = inputs.positional
        return self.neck([f.channels for f in features], **self.arguments)

    def call(self, network: nn.Module, inputs: Inputs, tensors: Tensors, size: Size) -> tuple[Tensor, ...]:  # noqa: ARG002
        """Call it as TerraTorch does: with the image's size if its `forward` takes any keywords."""
        parameters = signature(network.forward).parameters
        takes_size = "image_size" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        return to_tensors(network(tensors[0], **({"image_size": size} if takes_size else {})))

    def has_expected_outputs(self, outputs: Sequence[Tensor], expected: Outputs, batch: int, size: Size) -> bool:  # noqa: ARG002
        """Return whether there are as many outputs as declared, with their channels and this batch size."""
        return len(outputs) == len(expected.features) and all(
            x.shape[0] == batch and x.shape[2 if x.dim() == 3 else min(1, x.dim() - 1)] == f.channels
            for x, f in zip(outputs, expected.features, strict=True)
        )

    def _get_size_constraint(self, inputs: Inputs) -> SizeConstraint:
        least = [compute_min_cells(feature, self.least).least for feature in inputs.edges if feature.stride is not None]
        return SizeConstraint(least=max([1, *least]))

    def _probe(self, inputs: Inputs) -> ProbeResult:
        """Probe inputs, once: at sizes that are exact, rounding makes no difference."""
        exact = inputs.replace_features(
            tuple(tuple(evolve(f, rounding="exact", offset=0) for f in features) for features in inputs.all)
        )
        if exact not in self._probes:
            (features,) = exact.positional
            sizes: Sequence[Size] = probe_sizes(features, self._get_size_constraint(exact))
            is_large = any(f.cells(h) * f.cells(w) > MAX_PROBE_CELLS for f in features for h, w in sizes)
            self._probes[exact] = self._run_probe(exact, sizes[:1] if is_large else sizes)
        return self._probes[exact]

    def _run_probe(self, inputs: Inputs, sizes: Sequence[Size]) -> ProbeResult:
        """Run two images of zeros at each size."""
        (features,) = inputs.positional
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]), draw_in_blocks():
                network = self.make(inputs).eval()
                channels = _get_output_channels(network, features)
                runs = [self._run_on_zeros(network, inputs, size) for size in sizes]
        except Exception as error:  # a module may raise anything for inputs of another kind
            return ProbeResult(error=error.with_traceback(None))
        promised = [
            _build_output_feature(count, runs[0][min(index, len(runs[0]) - 1)], sizes[0], features)
            for index, count in enumerate(channels)
        ]
        swapped = [index for index, outputs in enumerate(zip(*runs, strict=False)) if _are_swapped(outputs, sizes)]
        return ProbeResult(Outputs(features=promised), swapped=swapped[0] if swapped else None, size=sizes[0])

    def _run_on_zeros(self, network: nn.Module, inputs: Inputs, size: Size) -> tuple[Tensor, ...]:
        """Return the outputs. Raises ValueError if there are none, or tokens were taken for a map without a batch."""
        (features,) = inputs.positional
        outputs = self.call(network, inputs, [[torch.zeros(f.shape(2, *size)) for f in features]], size)
        if not outputs:
            raise ValueError("a module must return at least one feature (got none)")
        if features[0].axes == TOKENS and all(len(x) != 2 for x in outputs if x.dim()):
            raise ValueError("the first axis of its output is not the batch of its tokens")
        return outputs


def _is_candidate(features: Features) -> bool:
    """Return whether a plain neck is tried with features: fewer of tokens and of five levels, which run slowly."""
    first, strides = features[0], [f.stride for f in features if f.stride is not None]
    if first.axes not in (MAP, TOKENS) or first.frames > 1 or first.channels == 1:
        return False
    is_flat, is_pyramid = len(set(strides)) == 1, strides == sorted(set(strides))
    is_short, is_alike = len(strides) < MAX_PYRAMID_LEVELS, len({f.channels for f in features}) == 1
    if first.axes == MAP:
        return is_flat or is_short or (is_pyramid and not is_alike)
    if first.prefix:
        return is_flat and is_alike
    return is_flat or (is_pyramid and is_short)


def _is_uniform(features: Features, axes: str) -> bool:
    return len(features) > 1 and features[0].axes == axes and len(set(features)) == 1


def _get_output_channels(network: nn.Module, features: Features) -> list[int]:
    channels = network.process_channel_list([f.channels for f in features])  # type: ignore[operator]
    if not isinstance(channels, list | tuple) or not all(isinstance(count, int) for count in channels):
        raise TypeError(f"process_channel_list must return a list of integers (got {channels!r})")
    return list(channels)


def _build_output_feature(channels: int, output: Tensor, size: Size, features: Features) -> Feature:
    """Return a feature with these channels. Its stride is a guess, from which the cost of a run is estimated."""
    axes = {2: "b c", 3: "b n c"}.get(output.dim(), "b c h w")
    if axes == "b c":
        return Feature(channels=channels, axes=axes, stride=None)
    cells = output.shape[1] if axes == "b n c" else output.shape[-2] * output.shape[-1]
    finer = [f.stride for f in features if f.stride is not None and f.cells(size[0]) * f.cells(size[1]) >= cells]
    return Feature(channels=channels, axes=axes, stride=max(finer, default=Fraction(1)), rounding="ceil")


def _are_swapped(outputs: Sequence[Tensor], sizes: Sequence[Size]) -> bool:
    return all(
        x.dim() == 4 and x.shape[2] * height == x.shape[3] * width
        for x, (height, width) in zip(outputs, sizes, strict=True)
    )
