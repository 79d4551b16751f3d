"""Ctrl-C where it would do harm: put off while a library is imported, passed over by processes that only help."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Within it, Ctrl-C is kept, and raised as KeyboardInterrupt at the end.

    torch brings the process down where it is interrupted halfway into its own import.
    """
    came: list[int] = []
    before = _handled(lambda number, _: came.append(number))
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Within it, Ctrl-C is passed over, here and in the processes that are started."""
    before = _handled(signal.SIG_IGN)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def ignore_interrupts() -> None:
    """From here on, Ctrl-C is passed over."""
    _handled(signal.SIG_IGN)


def _handled(by: Any) -> Any:
    """The handler that was there before; None where nothing was changed, because only a main thread may do so."""
    is_main = threading.current_thread() is threading.main_thread()
    return signal.signal(signal.SIGINT, by) if is_main else None
