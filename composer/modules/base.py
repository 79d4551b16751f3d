"""The open function `module`, and making modules reproducibly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, singledispatch
from inspect import isfunction, signature
from threading import local
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from composer.layouts import Features


@singledispatch
def module(part: Any, *inputs: Features, **named: Features) -> nn.Module:
    """Build the torch module of `part` for these inputs, which computes the features that `contract` returns.

    An input is a tuple of features; a part that joins takes several, by position or by name. The module is called
    in the same way, with a sequence of tensors for each input, and returns a tuple with one tensor for each output
    feature. It changes neither its inputs nor, in eval mode, itself. Where its `forward` has a keyword parameter
    `image_size`, it receives the height and width of the reference image in pixels, as integers or symbols.

    Add your own part with `@composer.module.register(ItsClass)`, on a function or a module class that is called in
    this way. Raises TypeError for a part that is not registered.
    """
    name = type(part).__name__
    raise TypeError(f"{name} has no module. Register one: @composer.module.register({name})")


def get_default_device() -> str:
    """Return the default device of new tensors."""
    return str(torch.get_default_device())


def use_default_device(device: str) -> AbstractContextManager[Any]:
    """Return a context in which new tensors are made on `device` by default.

    torch's own context intercepts every call of torch, a tenth of the build time of a small network, so it is entered
    only where the device changes.
    """
    default = torch.device(device)
    return nullcontext() if torch.get_default_device() == default else default


_WITH_GENERATOR_ARGUMENT: frozenset[Callable[..., Any]] = frozenset(
    (Tensor.bernoulli, Tensor.bernoulli_, Tensor.cauchy_, Tensor.exponential_, Tensor.geometric_, Tensor.log_normal_,
     Tensor.multinomial, Tensor.normal_, Tensor.random_, Tensor.uniform_, torch.bernoulli, torch.binomial,
     torch.multinomial, torch.normal, torch.poisson, torch.rand, torch.randint, torch.randn, torch.randperm)
)  # fmt: skip


_WITHOUT_GENERATOR_ARGUMENT: frozenset[Callable[..., Any]] = frozenset(
    (torch.rand_like, torch.randn_like, torch.randint_like, F.dropout, F.dropout1d, F.dropout2d, F.dropout3d,
     F.alpha_dropout, F.feature_alpha_dropout, F.rrelu)
)  # fmt: skip


class _GlobalGeneratorState(local):
    """Mark in `now` that an inner context of this thread has replaced the state of torch's global generator."""

    now = False


_GLOBAL_GENERATOR = _GlobalGeneratorState()


class SeededGenerator(TorchFunctionMode):
    """A context in which this thread draws random numbers on the CPU from a new generator, seeded with `seed`.

    The numbers equal those of torch's global generator after the same seed. The global one is neither seeded nor used,
    so other threads, inner contexts and forks do not disturb each other. Only for functions that take no generator
    (dropout in train mode, `rand_like`) its state is replaced, for that one call.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call `func`, with the generator where it draws and has none."""
        kwargs = kwargs or {}
        if not _is_random(func):
            return func(*args, **kwargs)
        if func not in _WITHOUT_GENERATOR_ARGUMENT:
            if kwargs.get("generator") is None and _is_on_cpu(args, kwargs):
                kwargs = {**kwargs, "generator": self._generator}
        elif kwargs.get("training", True) and not _GLOBAL_GENERATOR.now:
            with self._swap_global_generator():
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    @contextmanager
    def _swap_global_generator(self) -> Iterator[None]:
        previous = torch.default_generator.get_state()
        _GLOBAL_GENERATOR.now = True
        torch.default_generator.set_state(self._generator.get_state())
        try:
            yield
        finally:
            self._generator.set_state(torch.default_generator.get_state())
            torch.default_generator.set_state(previous)
            _GLOBAL_GENERATOR.now = False


@cache
def _is_random(func: Callable[..., Any]) -> bool:
    """Return whether a function may draw. Those of `torch.nn.init`, which libraries replace, have a `generator`."""
    if func in _WITH_GENERATOR_ARGUMENT or func in _WITHOUT_GENERATOR_ARGUMENT:
        return True
    return isfunction(func) and "generator" in signature(func).parameters


def _is_on_cpu(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether a call draws on the CPU, or on the meta device, which accepts CPU generators."""
    tensor = args[0] if args else kwargs.get("tensor")
    device = tensor.device if isinstance(tensor, Tensor) else kwargs.get("device") or torch.get_default_device()
    return torch.device(device).type in ("cpu", "meta")
