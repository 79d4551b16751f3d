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

from composer.contracts.rules import Refusal, Refused

MOST_MODULES = 4_096
"""Modules inside of one network. The largest networks of timm have some 1,800."""

LARGE = 2**29
"""Bytes that a model may come to before it is worth the while to count what the whole of it will come to."""


class TooMuchError(MemoryError):
    """What has been made of a model comes to more than there is memory for."""


class _Watches(local):
    """What watches the modules that this thread makes: `children` for modules in modules, `tensors` for tensors."""

    def __init__(self) -> None:
        self.children: list[Callable[[nn.Module | None], None]] = []
        self.tensors: list[Callable[[Tensor | None], None]] = []


_WATCHES = _Watches()


def _watch_child(_: nn.Module, __: str, child: nn.Module | None) -> None:
    for watch in tuple(_WATCHES.children):
        watch(child)


def _watch_tensor(_: nn.Module, __: str, tensor: Tensor | None) -> None:
    for watch in tuple(_WATCHES.tensors):
        watch(tensor)


# Registered once and for all: torch iterates over its hooks, and another thread that makes a module at the moment in
# which one is added or removed would fail.
register_module_module_registration_hook(_watch_child)
register_module_parameter_registration_hook(_watch_tensor)
register_module_buffer_registration_hook(_watch_tensor)


@contextmanager
def _watched(watches: list[Any], watch: Callable[[Any], None]) -> Iterator[None]:
    watches.append(watch)
    try:
        yield
    finally:
        watches.remove(watch)


@contextmanager
def few_modules() -> Iterator[None]:
    """Within it, a network of more than `MOST_MODULES` modules is stopped: whatever its constructor calls its depth.

    Raises Refused, time and again where a constructor catches it.
    """
    made = 0

    def count(child: nn.Module | None) -> None:
        nonlocal made
        made += child is not None
        if made > MOST_MODULES:
            raise Refused(_too_many())

    with _watched(_WATCHES.children, count):
        yield


def _too_many() -> Refusal:
    return Refusal(
        code="budget",
        kind="policy",
        expected=f"has at most {MOST_MODULES:,} modules",
        got="more of them from its options",
        repair="ask for a network that is less deep",
        about="options",
    )


@define
class _Grown:
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
            raise TooMuchError(f"it comes to more than {self.most:,} bytes")


@contextmanager
def held_to(most: int | None, enlarged: Callable[[], None] = lambda: None, large: int = LARGE) -> Iterator[None]:
    """Within it, what modules hold is added up as it is registered, which is before numbers are put into it.

    Memory that nobody has written to takes none. `enlarged` is called once, where it comes to more than `large` bytes;
    where it comes to more than `most`, TooMuchError is raised.
    """
    with _watched(_WATCHES.tensors, _Grown(large, most, enlarged).add):
        yield
