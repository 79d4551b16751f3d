"""Import other packages without their side effects."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from threading import RLock

_PROCESS_LOCK = RLock()
"""Held while something changes that the whole process shares: streams, log levels, warning filters, the environment.

Two threads that each restored what they had found would restore what the other had changed.
"""


if hasattr(os, "register_at_fork"):
    # A fork waits until no other thread is changing anything: in the child nobody would restore it.
    os.register_at_fork(
        before=_PROCESS_LOCK.acquire, after_in_parent=_PROCESS_LOCK.release, after_in_child=_PROCESS_LOCK.release
    )


@contextmanager
def drop_warnings() -> Iterator[None]:
    """Within it, warnings are lost."""
    with _PROCESS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def guard_import() -> Iterator[None]:
    """Within it warnings, log lines and what is printed are lost; after it the environment is as it was, and so are the
    random states of Python and of numpy: some packages draw when they are imported.
    """
    # Not at the top: a check imports nobody's package, and would wait for these.
    import logging
    import random

    with drop_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        environment, disabled = dict(os.environ), logging.root.manager.disable
        drawn, numpy = random.getstate(), sys.modules.get("numpy.random")
        numpy_drawn = None if numpy is None else numpy.get_state()
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)
            random.setstate(drawn)
            if numpy is not None:
                numpy.set_state(numpy_drawn)
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update(environment)
