"""State of the whole process: what other libraries change when they are imported or called, Ctrl-C, and memory.

What they change is restored afterwards, under one lock for all threads.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from composer.limits import get_free_memory

_PROCESS_LOCK = threading.RLock()
"""Held while state of the whole process is changed: streams, log levels, warning filters, the environment.

Without it, a thread could restore what another has changed in the meantime.
"""


if hasattr(os, "register_at_fork"):
    # A fork waits until no other thread holds the lock: in the child nothing would restore the state.
    os.register_at_fork(
        before=_PROCESS_LOCK.acquire, after_in_parent=_PROCESS_LOCK.release, after_in_child=_PROCESS_LOCK.release
    )


@contextmanager
def drop_warnings() -> Iterator[None]:
    """Discard warnings inside this context."""
    with _PROCESS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def guard_import() -> Iterator[None]:
    """Discard warnings, log lines and printed text inside this context, and restore the environment after it.

    The random states of Python and numpy are restored too: some packages draw numbers when they are imported.
    """
    # Not at the top: most checks import no third-party package, and these imports take time.
    import logging
    import random

    with drop_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        environment, disabled = dict(os.environ), logging.root.manager.disable
        state, numpy = random.getstate(), sys.modules.get("numpy.random")
        numpy_state = None if numpy is None else numpy.get_state()
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)
            random.setstate(state)
            if numpy is not None:
                numpy.set_state(numpy_state)
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update(environment)


@contextmanager
def handle_interrupts(handler: Any) -> Iterator[None]:
    """Set the handler of Ctrl-C for the block. Only the main thread can; others leave it as it is."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, handler) if is_main else None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


@contextmanager
def delay_interrupts() -> Iterator[None]:
    """Delay Ctrl-C to the end of the block, because torch crashes when its import is interrupted."""
    received: list[int] = []
    with handle_interrupts(lambda number, _: received.append(number)):
        yield
    if received:
        raise KeyboardInterrupt


def limit_memory() -> None:
    """Limit this process to the free memory, so that it raises MemoryError before the OOM killer acts. Linux only."""
    free = get_free_memory()
    if sys.platform != "linux" or free is None:
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    with suppress(ValueError, OSError):  # there is no /proc, or the limit of the system is lower
        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (used + free, hard))
