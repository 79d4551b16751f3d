"""A program in a process of its own, which the system ends where it takes far more of a core than it should.

A test then reads no clock: on a busy machine it is slower, and nothing else.
"""

from __future__ import annotations

import resource
import subprocess
import sys

SECONDS = 60
"""Of a core; what is run here takes one or two, most of which is an import."""


def bounded(program: str, *arguments: str, given: bytes = b"", seconds: int = SECONDS) -> bytes:
    """What a program prints. Raises CalledProcessError where it fails, or takes more seconds of a core."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        input=given,
        stdout=subprocess.PIPE,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds)),
    ).stdout
