"""Watching modules while they are made, so that what comes to too much is stopped before it is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import local
from typing import Any

from attrs import define
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from composer.contracts.rules import Rejection, RejectionError

MAX_MODULES = 4_096
"""Modules inside of one network. The largest networks of timm have some 1,800."""

LARGE_MODEL_BYTES = 2**29
"""Bytes that a model may come to before it is worth the while to count what the whole of it will come to."""


class AllocationLimitError(MemoryError):
    """What has been made of a model comes to more than there is memory for."""


class _RegistrationHooks(local):
    """What watches the modules that this thread makes: `children` for modules in modules, `tensors` for tensors."""

    def __init__(self) -> None:
        self.children: list[Callable[[nn.Module | None], None]] = []
        self.tensors: list[Callable[[Tensor | None], None]] = []


_REGISTRATION_HOOKS = _RegistrationHooks()


def _call_child_hooks(_: nn.Module, __: str, child: nn.Module | None) -> None:
    for watch in tuple(_REGISTRATION_HOOKS.children):
        watch(child)


def _call_tensor_hooks(_: nn.Module, __: str, tensor: Tensor | None) -> None:
    for watch in tuple(_REGISTRATION_HOOKS.tensors):
        watch(tensor)


# Registered once and for all: torch iterates over its hooks, and another thread that makes a module at the moment in
# which one is added or removed would fail.
register_module_module_registration_hook(_call_child_hooks)
register_module_parameter_registration_hook(_call_tensor_hooks)
register_module_buffer_registration_hook(_call_tensor_hooks)


@contextmanager
def _use_hook(watches: list[Any], watch: Callable[[Any], None]) -> Iterator[None]:
    watches.append(watch)
    try:
        yield
    finally:
        watches.remove(watch)


@contextmanager
def limit_modules() -> Iterator[None]:
    """Within it, a network of more than `MOST_MODULES` modules is stopped: whatever its constructor calls its depth.

    Raises Refused, time and again where a constructor catches it.
    """
    made = 0

    def count_child(child: nn.Module | None) -> None:
        nonlocal made
        made += child is not None
        if made > MAX_MODULES:
            raise RejectionError(_reject_module_count())

    with _use_hook(_REGISTRATION_HOOKS.children, count_child):
        yield


def _reject_module_count() -> Rejection:
    return Rejection(
        code="budget",
        kind="policy",
        expected=f"has at most {MAX_MODULES:,} modules",
        got="more of them from its options",
        repair="ask for a network that is less deep",
        about="options",
    )


@define
class _AllocationCounter:
    """The bytes that have been registered so far, and what is to be done when they come to so many."""

    large: int
    most: int | None
    enlarged: Callable[[], None]
    bytes: int = 0

    def add(self, tensor: Tensor | None) -> None:
        if tensor is None or tensor.is_meta:
            return
        before = self.bytes
        self.bytes += tensor.nbytes
        if before <= self.large < self.bytes:
            self.enlarged()
        if self.most is not None and self.bytes > self.most:
            raise AllocationLimitError(f"it comes to more than {self.most:,} bytes")


@contextmanager
def limit_bytes(
    most: int | None, enlarged: Callable[[], None] = lambda: None, large: int = LARGE_MODEL_BYTES
) -> Iterator[None]:
    """Within it, what modules hold is added up as it is registered, which is before numbers are put into it.

    Memory that nobody has written to takes none. `enlarged` is called once, where it comes to more than `large` bytes;
    where it comes to more than `most`, TooMuchError is raised.
    """
    with _use_hook(_REGISTRATION_HOOKS.tensors, _AllocationCounter(large, most, enlarged).add):
        yield
