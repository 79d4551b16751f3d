"""Wrappers of encoder modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from composer.layouts import Features
from composer.modules.base import SeededGenerator, module
from composer.parts import Custom
from composer.parts.rules import Rejection, RejectionError, compute_implied_sizes
from composer.sizes import Conflict, SizeConstraint, intersect
from composer.tensors.matching import LoadedWeights

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


class TransparentWrapper(nn.Module):
    """Wrap a network in a module with another `forward`, with the network's own parameters, buffers and children.

    The network is not a child of the wrapper, so the state dict has the names that published checkpoints use.
    """

    loaded_weights: LoadedWeights | None = None
    _network: tuple[Any]

    def __init__(self, network: Any) -> None:
        super().__init__()
        vars(self).update(get_shared_module_state(network))

    @property
    def network(self) -> Any:
        """The wrapped module."""
        return self._network[0]

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002, the signature is torch's
        """Set the mode of this module, its children, and the wrapped module itself."""
        super().train(mode)
        self.network.training = mode
        return self


def get_shared_module_state(network: Any) -> dict[str, Any]:
    """Return the attributes that a `TransparentWrapper` of `network` shares with it."""
    return {
        # A tuple, which torch does not search for modules.
        "_network": (network,),
        "_parameters": network._parameters,
        "_buffers": network._buffers,
        "_modules": network._modules,
        "_non_persistent_buffers_set": network._non_persistent_buffers_set,
    }


class TimmEncoder(TransparentWrapper):
    """Return the levels `indices` of a plain timm network, as maps or tokens, with or without its final norm.

    Layers that none of these levels needs are pruned.
    """

    def __init__(self, network: Any, indices: Sequence[int], *, tokens: bool = False, norm: bool = False) -> None:
        levels = network.prune_intermediate_layers(list(indices), prune_norm=not norm, prune_head=True)
        super().__init__(network)
        self.indices = list(levels)
        self.tokens = tokens
        # Two networks of timm have no such argument.
        self._normed = {"norm": True} if norm else {}

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        """Return each level as `(b, c, h, w)`, or with `tokens` as `(b, prefix + h * w, c)`."""
        run, options = self.network.forward_intermediates, {"indices": self.indices, "intermediates_only": True}
        if not self.tokens:
            return tuple(run(image_BCHW, **options, **self._normed))
        levels = run(image_BCHW, **options, **self._normed, return_prefix_tokens=True, output_fmt="NLC")
        pairs = [level if isinstance(level, tuple | list) else (level, None) for level in levels]
        return tuple(x if prefix is None else torch.cat([prefix, x], dim=1) for x, prefix in pairs)


@module.register(Custom)
def _(part: Custom, _: Features) -> nn.Module:
    """Return the module itself, checked by a forward pass of a small image, in eval mode without gradients.

    Raises RejectionError where its outputs are not as declared. The module is not changed.
    """
    network = part.module
    if not isinstance(network, nn.Module):
        raise RejectionError(_reject_declaration("must hold a torch.nn.Module", repr(network)))
    height, width = _find_small_custom_size(part)
    expected = [f.shape(1, height, width) for f in part.features]
    try:
        shapes = _measure_custom_shapes(
            network, (part.channels, *([part.frames] if part.frames else []), height, width)
        )
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise RejectionError(
            _reject_declaration(f"must take an image of {height} × {width}, which its sizes admit", reason)
        ) from error
    if shapes != expected:
        raise RejectionError(
            _reject_declaration(f"declares {expected} for an image of {height} × {width}", str(shapes))
        )
    return network


def _find_small_custom_size(part: Custom) -> tuple[int, int]:
    """Return a small valid size; not square if possible, to tell rows from columns."""
    sizes = intersect([("sizes", part.sizes), *(("features", compute_implied_sizes(f)) for f in part.features)])
    if isinstance(sizes, Conflict):
        raise RejectionError(
            _reject_declaration(
                f"declares features and sizes that exclude each other: {sizes.first_sizes}", str(sizes.second_sizes)
            )
        )
    assert isinstance(sizes, SizeConstraint)
    least = sizes.compute_padded_size(1, 1)
    assert least is not None
    return sizes.compute_padded_size(least[0], 2 * least[1]) or least


def _measure_custom_shapes(network: nn.Module, size: tuple[int, ...]) -> list[tuple[int, ...]]:
    parameter = next(network.parameters(), torch.empty(0))
    image = torch.zeros(1, *size, dtype=parameter.dtype, device=parameter.device)
    with torch.no_grad(), SeededGenerator(), use_eval_mode(network):
        out = network(image)
    return [tuple(x.shape) for x in ([out] if isinstance(out, Tensor) else out)]


@contextmanager
def use_eval_mode(network: nn.Module) -> Iterator[None]:
    """Use eval mode in a context, and restore the mode of every module afterwards."""
    modes = [(child, child.training) for child in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode


def _reject_declaration(expected: str, got: str) -> Rejection:
    return Rejection(
        code="features", kind="wrong_output", expected=expected, got=got, fix="correct features= or sizes="
    )
