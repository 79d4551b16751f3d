"""Code that is ended where it takes far more of a core than it should.

A test then reads no clock: on a busy machine it is slower, and nothing else.
"""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 60
"""Of a core; what is run here takes one or two, most of which is an import."""


def bounded(program: str, *arguments: str, given: bytes = b"", seconds: int = SECONDS) -> bytes:
    """What a program prints in a process of its own. Raises CalledProcessError if it fails, or takes more seconds."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        input=given,
        stdout=subprocess.PIPE,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds)),
    ).stdout


@contextmanager
def limit_seconds(seconds: float) -> Iterator[None]:
    """Raise an AssertionError inside of this context once it takes more seconds of a core; code in C ends first."""

    def stop(*_: object) -> None:
        raise AssertionError(f"this takes more than {seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
