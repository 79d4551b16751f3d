"""Code that is ended where it takes far more of a core than it should.

A test then reads no clock: on a busy machine it is slower, and nothing else.
"""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def limit_seconds(seconds: float) -> Iterator[None]:
    """Raise an AssertionError inside of this context once it takes more seconds of a core.

    Where code in C goes on, the system ends the process after twice as many.
    """

    def stop(*_: object) -> None:
        raise AssertionError(f"this takes more than {seconds} s")

    before, (soft, hard) = signal.signal(signal.SIGPROF, stop), resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + 2 * seconds) + 1, hard))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
