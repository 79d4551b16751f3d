"""State of the whole process, which other libraries change when they are imported or called.

It is restored afterwards, under one lock for all threads.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from threading import RLock

_PROCESS_LOCK = RLock()
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
