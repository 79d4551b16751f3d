"""A program in a process of its own, which the system ends where it takes far more of a core than it should.

A test then reads no clock: on a busy machine it is slower, and nothing else.
"""

from __future__ import annotations

import pickle
import resource
import subprocess
import sys
from typing import Any

SECONDS = 60
"""Of a core; what is run here takes one or two, most of which is an import."""

ANSWER = """
import pickle, sys
import composer
function, text = pickle.load(sys.stdin.buffer)
try:
    given = composer.reads(text)
    given = composer.infer(given) if function == "infer" else given
except composer.SpecError as error:
    given = error
pickle.dump(given if isinstance(given, composer.SpecError) else None, sys.stdout.buffer)
"""


def bounded(program: str, *arguments: str, given: bytes = b"", seconds: int = SECONDS) -> bytes:
    """What a program prints. Raises CalledProcessError where it fails, or takes more seconds of a core."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        input=given,
        stdout=subprocess.PIPE,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds)),
    ).stdout


def refusal(text: str, *, infer: bool = False) -> Any:
    """The SpecError of reading a text, or also of inferring it; None where there is none."""
    question = ("infer" if infer else "read", text)
    return pickle.loads(bounded(ANSWER, given=pickle.dumps(question)))
