"""Modules that only wrap another one: those of torch.compile, DataParallel and DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

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
