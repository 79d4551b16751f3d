"""Watching modules while they are made, so that what comes to too much is stopped before it is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import get_ident

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


@contextmanager
def few_modules() -> Iterator[None]:
    """Within it, a network of more than `MOST_MODULES` modules is stopped: whatever its constructor calls its depth.

    Raises Refused, time and again where a constructor catches it.
    """
    made, thread = 0, get_ident()

    def count(_: nn.Module, __: str, child: nn.Module | None) -> None:
        nonlocal made
        if child is None or get_ident() != thread:
            return
        made += 1
        if made > MOST_MODULES:
            raise Refused(_too_many())

    handle = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


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
    thread: int
    bytes: int = 0

    def add(self, _: nn.Module, __: str, tensor: Tensor | None) -> None:
        if tensor is None or tensor.is_meta or get_ident() != self.thread:
            return
        before = self.bytes
        self.bytes += tensor.numel() * tensor.element_size()
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
    grown = _Grown(large, most, enlarged, get_ident())
    with ExitStack() as handles:
        handles.callback(register_module_parameter_registration_hook(grown.add).remove)
        handles.callback(register_module_buffer_registration_hook(grown.add).remove)
        yield
