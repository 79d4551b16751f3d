"""Plain necks in TerraTorch's style, whose contract is found by running them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import torch
from attrs import evolve, field, frozen
from torch import nn

from composer.layouts import MAP, TOKENS, Feature, Features
from composer.modules.base import module
from composer.parts import Neck
from composer.parts.base import contract
from composer.parts.rules import Outputs, Rejection, compute_min_cells
from composer.sizes import SizeConstraint
from composer.testing.failures import format_error
from composer.testing.inputs import Inputs, find_unambiguous_size, list_stacks
from composer.testing.modules import build_seeded, call_module
from composer.testing.strategies import MAX_PYRAMID_LEVELS

BUG_ERRORS = (IndexError, NameError, AttributeError)
"""Errors that show a bug, rather than inputs of another kind."""


def is_plain_neck(thing: object) -> bool:
    """Return whether something is a neck in TerraTorch's style, or its class."""
    cls = thing if isinstance(thing, type) else type(thing)
    return issubclass(cls, nn.Module) and callable(getattr(cls, "process_channel_list", None))


@frozen(eq=False, repr=False)
class PlainNeck(Neck):
    """A neck `cls(channel_list, …)`, `process_channel_list(channel_list)`, `forward(features)`, or its class.

    Its contract is the number of outputs and their channels: axis 1 of maps and vectors, the last axis of tokens.
    Heights and widths are not part of it. Which inputs it accepts is found by running it on two images that are not
    square. `least` is the smallest number of cells a side of its inputs.
    """

    neck: type[nn.Module] | nn.Module
    arguments: Mapping[str, Any] = field(factory=dict)
    least: int = 1
    _results: dict[Features, Outputs | Rejection] = field(factory=dict, init=False)

    def __repr__(self) -> str:
        cls = self.neck if isinstance(self.neck, type) else type(self.neck)
        return f"{cls.__name__}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"


def iter_plain_neck_inputs(plain: PlainNeck) -> Iterator[Inputs]:
    """Yield maps and tokens; for a module, only those with its `channel_list`. Few have five levels."""
    widths = () if isinstance(plain.neck, type) else getattr(plain.neck, "channel_list", ())
    for features in (*list_stacks(MAP, "flat", "pyramid"), *list_stacks(TOKENS, "flat", "pyramid")):
        is_rare = features[0].prefix > 0 or len(features) == MAX_PYRAMID_LEVELS
        is_alike = len({f.channels for f in features}) == 1
        if features[0].channels == 1 or features[0].frames > 1 or (is_rare and not is_alike):
            continue
        if not widths:
            yield Inputs((features,))
        elif len(widths) == len(features):
            yield Inputs((tuple(evolve(f, channels=c) for f, c in zip(features, widths, strict=True)),))


@contract.register(PlainNeck)
def _(plain: PlainNeck, features: Features) -> Outputs | Rejection:
    exact = tuple(evolve(f, rounding="exact", offset=0) for f in features)
    if exact not in plain._results:
        plain._results[exact] = _find_result(plain, exact)
    result = plain._results[exact]
    return result if isinstance(result, Rejection) else evolve(result, sizes=_compute_sizes(plain, features))


@module.register(PlainNeck)
def _(plain: PlainNeck, features: Features) -> nn.Module:
    """Build the class for the channels of the inputs, or copy the module, because laws change it."""
    if isinstance(plain.neck, nn.Module):
        return deepcopy(plain.neck)
    return plain.neck([f.channels for f in features], **plain.arguments)


def _compute_sizes(plain: PlainNeck, features: Features) -> SizeConstraint:
    least = [compute_min_cells(feature, plain.least).least for feature in features if feature.stride is not None]
    return SizeConstraint(least=max([1, *least]))


def _find_result(plain: PlainNeck, features: Features) -> Outputs | Rejection:
    """Run two images of zeros. A neck that accepts one level, and has a bug for two equal ones, should accept them."""
    outputs = Outputs(features=())
    try:
        network = build_seeded(lambda: module(plain, features))
        counts = network.process_channel_list([f.channels for f in features])  # type: ignore[operator]
        outputs = Outputs(features=[Feature(channels=count, axes="b c", stride=None) for count in counts])
        _run_on_zeros(plain, network, features)
    except Exception as error:  # a module may raise anything for inputs of another kind
        is_bug = isinstance(error, BUG_ERRORS) and len(features) == 2 and features[0] == features[1]
        if not is_bug or not outputs.features or isinstance(contract(plain, features[:1]), Rejection):
            return Rejection(code="inputs", kind="wrong_output", expected=f"raises {format_error(error)}")
    return outputs


def _run_on_zeros(plain: PlainNeck, network: nn.Module, features: Features) -> None:
    """Run the network. Raises ValueError if it takes tokens for a map without a batch."""
    sizes = _compute_sizes(plain, features)
    size = find_unambiguous_size(features, sizes.least) or (sizes.least, sizes.least)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        zeros = [torch.zeros(f.shape(2, *size)) for f in features]
        outputs = call_module(network, [zeros], {}, size)
    if features[0].axes == TOKENS and all(len(x) != 2 for x in outputs if x.dim()):
        raise ValueError("the first axis of its output is not the batch of its tokens")
