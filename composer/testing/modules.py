"""Modules: how they are built and called, and plain necks, whose contract is found by running them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from inspect import Parameter, signature
from typing import Any
from unittest.mock import patch

import torch
from attrs import evolve, field, frozen
from torch import Tensor, nn

from composer.layouts import MAP, TOKENS, Feature, Features
from composer.modules.base import module
from composer.parts import Neck
from composer.parts.base import contract
from composer.parts.rules import Outputs, Rejection, compute_min_cells
from composer.sizes import SizeConstraint
from composer.testing.failures import ContractUncheckable, format_error
from composer.testing.inputs import Inputs, Size, find_unambiguous_size, list_stacks
from composer.testing.strategies import MAX_PYRAMID_LEVELS

BLOCK_SIZE = 16411
"""Random numbers drawn for a large tensor, which repeats them: a prime, so that rows of a weight differ."""


def build_seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """Build a module in eval mode, with the same weights every time; torch's random state is kept."""
    draws: dict[str, Any] = {name: _repeat_blocks(getattr(Tensor, name)) for name in ("uniform_", "normal_")}
    with torch.random.fork_rng(devices=[]), patch.multiple(Tensor, **draws):
        torch.default_generator.manual_seed(0)
        return make().eval()


def _repeat_blocks(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function that fills a tensor with repeated draws, because drawing is most of a build's time."""

    def fill(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if tensor.numel() <= BLOCK_SIZE:
            return draw(tensor, *args, **kwargs)
        block = draw(tensor.new_empty(BLOCK_SIZE), *args, **kwargs)
        repeats = -(-tensor.numel() // BLOCK_SIZE)
        with torch.no_grad():
            return tensor.copy_(block.repeat(repeats)[: tensor.numel()].view(tensor.shape))

    return fill


def call_module(
    network: nn.Module,
    inputs: Sequence[Sequence[Tensor]],
    named: Mapping[str, Sequence[Tensor]],
    size: Size,
    *,
    has_contract: bool = True,
) -> tuple[Tensor, ...]:
    """Call a module with a list of tensors for each input, and with `image_size` if it has that argument.

    A module without a contract also gets it if it takes any keywords, as TerraTorch calls necks.
    """
    parameters = signature(network.forward).parameters
    takes_any = not has_contract and Parameter.VAR_KEYWORD in [p.kind for p in parameters.values()]
    keywords: dict[str, Any] = {"image_size": size} if takes_any or "image_size" in parameters else {}
    return to_tensors(network(*inputs, **named, **keywords))


def to_tensors(out: Any) -> tuple[Tensor, ...]:
    """Return the output of a module as a tuple. Raises TypeError unless it is a tensor or an iterable of tensors."""
    outputs = (out,) if isinstance(out, Tensor) else tuple(out) if isinstance(out, Iterable) else (out,)
    if not all(isinstance(x, Tensor) for x in outputs) or isinstance(out, Mapping):
        kind = "None" if out is None else f"a {type(out).__name__}"
        raise TypeError(f"a module must return a tensor, or a list or tuple of tensors (got {kind})")
    return outputs


# --- plain necks

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
    _networks: dict[tuple[int, ...], nn.Module] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.neck, type):
            return
        try:
            signature(self.neck).bind([8], **self.arguments)
        except TypeError as error:
            hint = "pass the option arguments={…}, in check_contract or composer_checks"
            raise ContractUncheckable(f"cannot construct {self!r}: {error}; {hint}") from None

    def __repr__(self) -> str:
        cls = self.neck if isinstance(self.neck, type) else type(self.neck)
        return f"{cls.__name__}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"


def iter_plain_neck_inputs(plain: PlainNeck) -> Iterator[Inputs]:
    """Yield maps and tokens; for a module, only those with its `channel_list`. Few have five levels."""
    widths = None if isinstance(plain.neck, type) else list(getattr(plain.neck, "channel_list", []))
    for features in (*list_stacks(MAP), *list_stacks(TOKENS)):
        first, strides = features[0], [f.stride for f in features if f.stride is not None]
        is_usual = strides == sorted(strides) and len(set(strides)) in (1, len(strides))
        is_alike = len({f.channels for f in features}) == 1
        is_slow = len(features) == MAX_PYRAMID_LEVELS and not (is_alike and first.axes == MAP)
        if first.channels == 1 or first.frames > 1 or (first.prefix and not is_alike) or is_slow or not is_usual:
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
    channels: list[int] = []
    try:
        widths = tuple(f.channels for f in features)
        if widths not in plain._networks:
            plain._networks[widths] = build_seeded(lambda: module(plain, features))
        network = plain._networks[widths]
        channels += _get_output_channels(network, features)
        _run_on_zeros(plain, network, features)
    except Exception as error:  # a module may raise anything for inputs of another kind
        is_bug = isinstance(error, BUG_ERRORS) and len(features) == 2 and features[0] == features[1] and channels
        if not is_bug or isinstance(contract(plain, features[:1]), Rejection):
            return Rejection(code="plain", kind="wrong_output", expected=f"raises {format_error(error)}")
    return Outputs(features=[Feature(channels=count, axes="b c", stride=None) for count in channels])


def _get_output_channels(network: nn.Module, features: Features) -> list[int]:
    channels = network.process_channel_list([f.channels for f in features])  # type: ignore[operator]
    if not isinstance(channels, list | tuple) or not all(isinstance(count, int) for count in channels):
        raise TypeError(f"process_channel_list must return a list of integers (got {channels!r})")
    return list(channels)


def _run_on_zeros(plain: PlainNeck, network: nn.Module, features: Features) -> None:
    """Run the network. Raises ValueError if it returns nothing, or takes tokens for a map without a batch."""
    sizes = _compute_sizes(plain, features)
    size = find_unambiguous_size(features, sizes.least) or (sizes.least, sizes.least)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        zeros = [torch.zeros(f.shape(2, *size)) for f in features]
        outputs = call_module(network, [zeros], {}, size, has_contract=False)
    if not outputs:
        raise ValueError("a module must return at least one feature (got none)")
    if features[0].axes == TOKENS and all(len(x) != 2 for x in outputs if x.dim()):
        raise ValueError("the first axis of its output is not the batch of its tokens")
