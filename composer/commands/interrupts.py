"""Ctrl-C where it would do harm: put off while a library is imported, kept from processes that only help."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def guard_from_interrupts() -> Iterator[None]:
    """Within it, Ctrl-C is kept, and raised as KeyboardInterrupt at the end.

    torch brings the process down where it is interrupted halfway into its own import.
    """
    came: list[int] = []
    before = _set_handler(lambda number, _: came.append(number))
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


@contextmanager
def mask_interrupts() -> Iterator[None]:
    """Within it, Ctrl-C waits for the end; the processes that multiprocessing starts never hear of it.

    Windows has nothing of the kind: there both go on as before.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing.resource_tracker import ensure_running

    ensure_running()  # or the first of them would start it, and starting it lets Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def drop_interrupts() -> None:
    """From here on, Ctrl-C is passed over."""
    _set_handler(signal.SIG_IGN)


def _set_handler(by: Any) -> Any:
    """The handler that was there before; None where nothing was changed, because only a main thread may do so."""
    is_main = threading.current_thread() is threading.main_thread()
    return signal.signal(signal.SIGINT, by) if is_main else None
