"""Plain modules as subjects of the laws."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from composer.testing.strategies import MAX_PYRAMID_LEVELS
from composer.testing.subjects import (
    ClassifiedInputs,
    Inputs,
    Subject,
    Tensors,
    draw_in_blocks,
    iter_stacks,
    run_query,
    to_tensors,
)

Size = tuple[int, int]


MAX_SIZE_TRIES = 100


def probe_sizes(features: Features, sizes: SizeConstraint) -> tuple[Size, Size]:
    """Two sizes, one upright and one not, at which every grid is whole, and no side of a grid and no number of tokens
    is a number of channels: what runs at both does not do so by coincidence. From three cells on, as few as can be.
    """
    step = compute_exact_multiple(*features).multiple
    fewest = max(3, -(-sizes.least // step))
    for first in range(fewest, fewest + MAX_SIZE_TRIES):
        tried = ((first * step, (first + 2) * step), ((first + 2) * step, first * step))
        if not _has_coincidence(features, tried):
            return tried
    return tried


def _has_coincidence(features: Features, sizes: tuple[Size, Size]) -> bool:
    channels = {feature.channels for feature in features}
    return any(
        number in channels for feature in features for size in sizes for number in _collect_cell_counts(feature, size)
    )


def _collect_cell_counts(feature: Feature, size: Size) -> set[int]:
    """Every number of cells that stands on an axis of the feature's tensor."""
    if feature.stride is None:
        return set()
    shape = dict(zip(feature.axes.split(), feature.shape(2, *size), strict=True))
    return {count for axis, count in shape.items() if axis in "hwn"} | {feature.cells(side) for side in size}


MAX_PROBE_CELLS = 2000
"""Cells of a level that are run at a second size too."""


BUG_ERRORS = (IndexError, NameError, AttributeError)
"""What code raises that has a slip in it, rather than one that was not made for this. UnboundLocalError is a NameError.
"""


@frozen
class ProbeResult:
    """What became of a probe: what a neck promises, or the error that it raises; and at which outputs rows are columns.

    `swapped` gives the first of these outputs, or None; `size` is the image's.
    """

    promise: Outputs | None = None
    error: Exception | None = None
    swapped: int | None = None
    size: Size = (0, 0)


@frozen
class ModuleSubject:
    """A neck that is a plain module: `cls(channel_list, …)`, `process_channel_list(channel_list)`, `forward(features)`.

    It promises how many features it gives and their channels, at the second axis of a map or a vector, at the last
    one of tokens; and says not what it takes: that is tried, on two images that are not square, at which no side of a
    grid is a number of channels. Heights and widths it does not promise. `least` is how many cells a side of what it
    is fed has at least.
    """

    made: type[nn.Module] | nn.Module
    arguments: Mapping[str, Any] = field(factory=dict)
    least: int = 1
    _probed: dict[Inputs, ProbeResult] = field(factory=dict, init=False, eq=False, repr=False)

    @property
    def name(self) -> str:
        """The class, or the class of the module."""
        one = self.made if isinstance(self.made, type) else type(self.made)
        return f"{one.__name__}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"

    def iter_candidates(self) -> Iterator[Inputs]:
        """Maps and tokens; of a module that is made already those of its `channel_list` alone.

        Of five levels, and of tokens, there are fewer: attention and convolutions over the finest take long.
        """
        wanted = None if isinstance(self.made, type) else list(getattr(self.made, "channel_list", []))
        for features in iter_stacks():
            if _is_candidate(features):
                channels = [f.channels for f in features]
                if not wanted:
                    yield Inputs((features,))
                elif len(wanted) == len(channels):
                    yield Inputs((tuple(_rebuild_with_channels(f, c) for f, c in zip(features, wanted, strict=True)),))

    def outcome(self, inputs: Inputs) -> Outputs | Rejection | None:
        """Features with the channels that it says; what it cannot run is not asked about."""
        promise = self._probe(inputs).promise
        return None if promise is None else evolve(promise, sizes=self._get_size_constraint(inputs))

    def explain_rejection(self, inputs: Inputs) -> str:
        """What it raises, and whether it does so for images alone that are not square."""
        error = self._probe(inputs).error
        if error is None:
            return "no image size suits it"
        square = self._is_square_only(inputs)
        return f"{'for images that are not square ' if square else ''}it raises {format_error(error)}"

    def fault(self, accepted: Sequence[Inputs], untaken: Sequence[Inputs]) -> str:
        """Rows for columns, at each of two sizes; or a slip, where one level is taken and nothing of several."""
        for inputs in accepted:
            probe = self._probe(inputs)
            if probe.swapped is not None:
                height, width = probe.size
                what = f"fed {'; '.join(inputs.sentences)}, of 2 images of {height} × {width}"
                return f"feature {probe.swapped} of what it gives has rows for columns, {what}"
        singles = {features[0].axes for (features,) in _iter_first_inputs(accepted) if len(features) == 1}
        beyond = {features[0].axes for (features,) in _iter_first_inputs(accepted) if len(features) > 1}
        for axes in sorted(singles - beyond):
            alike = [one for one in untaken if _is_flat(one.positional[0], axes)]
            errors = [self._probe(one).error for one in alike]
            if alike and all(isinstance(error, BUG_ERRORS) for error in errors):
                assert errors[0] is not None
                fed = describe_features(alike[0].positional[0])
                return f"it takes one level, and nothing of several: fed {fed}, it raises {format_error(errors[0])}"
        return ""

    def has_input_gradients(self) -> bool:
        """Always: it stands behind an encoder."""
        return True

    def _get_size_constraint(self, inputs: Inputs) -> SizeConstraint:
        least = [compute_min_cells(feature, self.least).least for feature in inputs.edges if feature.stride is not None]
        return SizeConstraint(least=max([1, *least]))

    def _probe(self, inputs: Inputs) -> ProbeResult:
        """What became of probes with these inputs; they are run once. Rounding is not seen at whole sizes."""
        exact = inputs.replace_features(
            tuple(tuple(evolve(f, rounding="exact", offset=0) for f in one) for one in inputs.all)
        )
        if exact not in self._probed:
            self._probed[exact] = self._run_probe(exact)
        return self._probed[exact]

    def _run_probe(self, inputs: Inputs) -> ProbeResult:
        """The channels that it says, and what it gives for two images of each of two sizes."""
        (features,) = inputs.positional
        sizes: Sequence[Size] = probe_sizes(features, self._get_size_constraint(inputs))
        # Of a large pyramid one size will do: hardly anything runs on levels of so many sizes by coincidence.
        sizes = (
            sizes[:1] if max(f.cells(h) * f.cells(w) for f in features for h, w in sizes) > MAX_PROBE_CELLS else sizes
        )
        try:
            network = self._build_probe_module(inputs)
            channels = _get_output_channels(network, features)
            given = [self._run_on_zeros(network, inputs, size) for size in sizes]
        except Exception as error:  # whatever a module raises that was not made for this
            return ProbeResult(error=error.with_traceback(None))
        stretched = [_extend_outputs(one, len(channels)) for one in given]
        promised = [
            _build_output_feature(count, [one[index] for one in stretched], sizes, features)
            for index, count in enumerate(channels)
        ]
        rows = [index for index, outputs in enumerate(zip(*given, strict=False)) if _are_swapped(outputs, sizes)]
        return ProbeResult(promise=Outputs(features=promised), swapped=rows[0] if rows else None, size=sizes[0])

    def _build_probe_module(self, inputs: Inputs) -> nn.Module:
        with torch.random.fork_rng(devices=[]), draw_in_blocks():
            return self.make(inputs).eval()

    def _run_on_zeros(self, network: nn.Module, inputs: Inputs, size: Size) -> tuple[Tensor, ...]:
        """What it gives for two images of a size. Raises ValueError where that is nothing, and where a layer that takes
        maps without a batch, and any number of channels, took tokens for one.
        """
        (features,) = inputs.positional
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            given = self.call(network, inputs, [[torch.zeros(f.shape(2, *size)) for f in features]], size)
        if not given:
            raise ValueError("no features, where one at least is wanted")
        if features[0].axes == TOKENS and all(len(x) != 2 for x in given if x.dim()):
            raise ValueError("the first axis of tokens is taken for another one than the batch")
        return given

    def _is_square_only(self, inputs: Inputs) -> bool:
        """Whether it can run square images of what it does not take."""
        (features,) = inputs.positional
        height, _ = probe_sizes(features, self._get_size_constraint(inputs))[0]
        try:
            network = self._build_probe_module(inputs)
            _get_output_channels(network, features)
            self._run_on_zeros(network, inputs, (height, height))
        except Exception:
            return False
        return True

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
        return to_tensors(network(tensors[0], **({"image_size": size} if told else {})))

    def has_expected_outputs(
        self,
        given: Sequence[Tensor],
        promise: Outputs,
        batch: int,
        height: int,  # noqa: ARG002
        width: int,  # noqa: ARG002
    ) -> bool:
        """Whether it gives as many features as it says, of as many channels, and a batch of the images' number."""
        return len(given) == len(promise.features) and all(
            x.shape[0] == batch and x.shape[_find_channel_axis(x)] == f.channels
            for x, f in zip(given, promise.features, strict=True)
        )


def is_plain_neck(thing: object) -> bool:
    """Whether something is a neck in TerraTorch's style, or the class of one."""
    one = thing if isinstance(thing, type) else type(thing)
    return issubclass(one, nn.Module) and callable(getattr(one, "process_channel_list", None))


def _get_output_channels(network: nn.Module, features: Features) -> list[int]:
    """What a neck says that it gives. Raises TypeError where that is no list of whole numbers."""
    said = network.process_channel_list([f.channels for f in features])  # type: ignore[operator]
    if not isinstance(said, list | tuple) or not all(isinstance(count, int) for count in said):
        raise TypeError(f"process_channel_list gives {said!r}, where a list of whole numbers is wanted")
    return list(said)


def _is_candidate(features: Features) -> bool:
    first, strides = features[0], [f.stride for f in features if f.stride is not None]
    if first.axes not in (MAP, TOKENS) or first.frames > 1 or first.channels == 1:
        return False
    is_flat, is_pyramid = len(set(strides)) == 1, strides == sorted(set(strides))
    is_alike = len({f.channels for f in features}) == 1
    if first.axes == MAP:
        return is_flat or len(strides) < MAX_PYRAMID_LEVELS or (is_pyramid and not is_alike)
    return is_flat or (is_pyramid and not first.prefix and len(strides) < MAX_PYRAMID_LEVELS)


def _rebuild_with_channels(feature: Feature, channels: int) -> Feature:
    return Feature(channels=channels, stride=feature.stride, axes=feature.axes, prefix=feature.prefix)


def _iter_first_inputs(several_inputs: Sequence[Inputs]) -> Iterator[tuple[Features]]:
    return ((inputs.positional[0],) for inputs in several_inputs if inputs.positional and inputs.positional[0])


def _is_flat(features: Features, axes: str) -> bool:
    return len(features) > 1 and features[0].axes == axes and len(set(features)) == 1


def _build_output_feature(
    channels: int, outputs: Sequence[Tensor], sizes: Sequence[Size], features: Features
) -> Feature:
    """A feature of so many channels. Of its grid nothing is asked: its stride tells about how large a run becomes."""
    axes = {2: "b c", 3: "b n c"}.get(outputs[0].dim(), "b c h w")
    if axes == "b c":
        return Feature(channels=channels, axes=axes, stride=None)
    cells = outputs[0].shape[1] if axes == "b n c" else outputs[0].shape[-2] * outputs[0].shape[-1]
    fed = [f for f in features if f.stride is not None and f.cells(sizes[0][0]) * f.cells(sizes[0][1]) >= cells]
    stride = max((f.stride for f in fed if f.stride is not None), default=Fraction(1))
    return Feature(channels=channels, axes=axes, stride=stride, rounding="ceil")


def _are_swapped(outputs: Sequence[Tensor], sizes: Sequence[Size]) -> bool:
    """Whether a map has the image's height to its width as its width to its height, at each of several sizes."""
    return all(
        x.dim() == 4 and x.shape[2] * height == x.shape[3] * width
        for x, (height, width) in zip(outputs, sizes, strict=True)
    )


def _extend_outputs(given: Sequence[Tensor], count: int) -> list[Tensor]:
    return [*given, *[given[-1]] * count][:count]


def _find_channel_axis(x: Tensor) -> int:
    return 2 if x.dim() == 3 else min(1, x.dim() - 1)


def classify_inputs(subject: Subject, candidates: Iterable[Inputs]) -> ClassifiedInputs:
    """What a subject says of each candidate. Raises ContractUncheckable where saying it fails."""
    accepted, refused, untaken = [], [], []
    for inputs in candidates:
        outcome = run_query(subject, inputs)
        if isinstance(outcome, Outputs):
            accepted.append(inputs)
        elif isinstance(outcome, Rejection):
            refused.append(inputs)
        else:
            untaken.append(inputs)
    others = (*refused, *untaken)
    return ClassifiedInputs(
        accepted=tuple(accepted),
        refused=tuple(refused),
        untaken=tuple(untaken),
        reason=subject.explain_rejection(others[0]) if others else "",
        fault=subject.fault(accepted, untaken),
    )
