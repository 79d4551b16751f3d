"""The open function `module`, what several modules share, and the tree that a model makes of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import cache, singledispatch
from inspect import isfunction, signature
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from composer.graph import get_module_path
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


_REPLACED = ContextVar("replaced", default=False)
"""Set while an inner context of this thread has replaced the state of torch's global generator."""


class CallMode(TorchFunctionMode):
    """A context in which `call` is called in place of every function of torch."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return `call` of a function and its arguments."""
        return self.call(func, args, {**kwargs} if kwargs else {})

    def call(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Return the result of `func`."""
        raise NotImplementedError


class SeededGenerator(CallMode):
    """A context in which this thread draws random numbers on the CPU from a new generator, seeded with `seed`.

    The numbers equal those of torch's global generator after the same seed. The global one is neither seeded nor used,
    so other threads, inner contexts and forks do not disturb each other. Only for functions that take no generator
    (dropout in train mode, `rand_like`) its state is replaced, for that one call.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def call(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call `func`, with the generator where it draws and has none."""
        if not _is_random(func):
            return func(*args, **kwargs)
        if func not in _WITHOUT_GENERATOR_ARGUMENT:
            if kwargs.get("generator") is None and _is_on_cpu(args, kwargs):
                kwargs["generator"] = self._generator
        elif kwargs.get("training", True) and not _REPLACED.get():
            with self._swap_global_generator():
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    @contextmanager
    def _swap_global_generator(self) -> Iterator[None]:
        previous = torch.default_generator.get_state()
        token = _REPLACED.set(True)
        torch.default_generator.set_state(self._generator.get_state())
        try:
            yield
        finally:
            self._generator.set_state(torch.default_generator.get_state())
            torch.default_generator.set_state(previous)
            _REPLACED.reset(token)


@cache
def _is_random(func: Callable[..., Any]) -> bool:
    """Return whether a function may draw. Those of `torch.nn.init`, which libraries replace, have a `generator`."""
    if func in _WITH_GENERATOR_ARGUMENT or func in _WITHOUT_GENERATOR_ARGUMENT:
        return True
    with suppress(ValueError):  # a function that wraps one of C, which has no signature
        return isfunction(func) and "generator" in signature(func).parameters
    return False


def _is_on_cpu(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether a call draws on the CPU, or on the meta device, which accepts CPU generators."""
    tensor = args[0] if args else kwargs.get("tensor")
    device = tensor.device if isinstance(tensor, Tensor) else kwargs.get("device") or torch.get_default_device()
    return torch.device(device).type in ("cpu", "meta")


def build_activation(name: str) -> nn.Module:
    """Build the activation of torch with a name of `FINAL_ACTIVATIONS`. Softmax is over the channels, axis 1."""
    built: nn.Module = getattr(nn, name)(**({"dim": 1} if name.endswith("Softmax") else {}))
    return built


def build_conv_norm_act(incoming: int, outgoing: int, kernel: int, dilation: int = 1) -> nn.Module:
    """Build a convolution without bias that keeps the grid, batch norm and ReLU, named `conv`, `norm`, `act`."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(incoming, outgoing, kernel, padding=padding, dilation=dilation, bias=False),
            norm=nn.BatchNorm2d(outgoing),
            act=nn.ReLU(inplace=True),
        )
    )


def resize_like(x_BCHW: Tensor, like: Tensor, mode: str, *, align_corners: bool | None = None) -> Tensor:
    """Resize `x_BCHW` to the size of `like`: not by a factor, because sizes may have been rounded."""
    height, width = like.shape[-2:]
    return F.interpolate(x_BCHW, size=(height, width), mode=mode, align_corners=align_corners)


def make_contiguous_for_training(x: Tensor, like: Tensor) -> Tensor:
    """Return `x`, contiguous where `like` is contiguous, gradients are on and both are on the CPU.

    oneDNN's backward pass of a convolution takes twice as long in channels-last memory. Inputs in channels-last memory
    keep it. A compiler chooses memory formats itself.
    """
    if torch.is_grad_enabled() and like.is_cpu and not torch.compiler.is_compiling() and like.is_contiguous():
        return x.contiguous()
    return x


class AdaptiveAveragePool(nn.AdaptiveAvgPool2d):
    """Average over a grid of windows as torch's AdaptiveAvgPool2d does, also when exported with dynamic sizes.

    The exporters unroll torch's class at the size of the example. Two products with 0/1 windows are equal up to
    rounding. They are written as sums because matmul asks whether a symbolic side is 1, which export rejects.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return `(b, c, n, n)`, the averages over a grid of n × n overlapping windows."""
        height, width = x_BCHW.shape[-2:]
        if (type(height) is int and type(width) is int) or not torch.compiler.is_exporting():
            averaged: Tensor = super().forward(x_BCHW)
            return averaged
        cells = int(self.output_size)  # type: ignore[arg-type]
        rows, columns = (_compute_window_weights(cells, side, x_BCHW) for side in (height, width))
        x_BCNW = (x_BCHW.unsqueeze(-3) * rows.unsqueeze(-1)).sum(-2)
        return (x_BCNW.unsqueeze(-2) * columns).sum(-1)


def _compute_window_weights(cells: int, side: int, like: Tensor) -> Tensor:
    """Return the weights `(cells, side)` of each average: cell i covers floor(i·side/n) to ceil((i+1)·side/n)."""
    index = torch.arange(cells, device=like.device)[:, None]
    start = index * side // cells
    end = ((index + 1) * side + cells - 1) // cells
    position = torch.arange(side, device=like.device)
    inside = ((position >= start) & (position < end)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


def fold_frames(x_BCTHW: Tensor) -> Tensor:
    """Fold frames into the batch: `(b, c, t, h, w)` to `(b * t, c, h, w)`."""
    return rearrange(x_BCTHW, "b c t h w -> (b t) c h w")


def unfold_frames(x: Tensor, batch: int, frames: int) -> Tensor:
    """Unfold the frames of a tensor: split its axis `batch` into batch and `frames`."""
    before = " ".join(f"axis{number}" for number in range(batch))
    return rearrange(x, f"{before} (b t) ... -> {before} b t ...", t=frames)


def attach_modules(root: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Attach modules to `root` by their names, with containers between."""
    for name, module in modules.items():
        *above, last = path = get_module_path(name)
        parent = root
        for segment, following in zip(above, path[1:], strict=True):
            if segment not in parent._modules:
                parent.add_module(segment, nn.ModuleList() if following == "0" else nn.ModuleDict())
            parent = parent.get_submodule(segment)
        parent.add_module(last, module)


COMPILED = "_orig_mod"
"""The name under which torch.compile's wrapper has the original module."""


def unwrap(module: nn.Module) -> nn.Module:
    """Return the module inside all wrappers around `module`, or `module` itself. nn.Sequential of one wraps too."""
    while isinstance(module, nn.Module) and (name := _find_wrapped_name(module) or _find_only_child(module)):
        module = module.get_submodule(name)
    return module


def map_unwrapped_names(module: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Map the names of tensors in `module` to the names they have without the wrappers around its children."""
    wrappers = [
        (path, inside) for path, child in module.named_modules() if path and (inside := _find_wrapped_name(child))
    ]
    plain = {name: name for name in names}
    # The innermost first, because a name is shortened from its end.
    for path, inside in reversed(wrappers):
        start = f"{path}.{inside}."
        for name, short in plain.items():
            if short.startswith(start):
                plain[name] = f"{path}.{short[len(start) :]}"
    return plain


def _find_wrapped_name(module: nn.Module) -> str | None:
    if COMPILED in module._modules:
        return COMPILED
    return "module" if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel) else None


def _find_only_child(module: nn.Module) -> str | None:
    return "0" if type(module) is nn.Sequential and len(module) == 1 else None
