"""`python -m composer`: the process around the command line, with its signals, streams and memory limit.

Exit codes: 0, success; 1, a spec has problems; 2, wrong arguments or files; 130, interrupted.
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":
    # During the imports there is nothing to clean up, and no code yet that prints one line for an interrupt.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from composer.cli.main import PIPE_CLOSED, main
from composer.cli.terminal import log
from composer.process import limit_memory

if __name__ == "__main__":
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, it stays open as long as Python runs
        getattr(sys, name).reconfigure(errors="replace")  # a terminal without ← prints ?
    limit_memory()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = main()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the pipe has ended; Python would print an error when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = PIPE_CLOSED
    except OSError as error:  # of stdout, on a full disk
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        what = "stdout: cannot be written" if error.filename is None else f"{error.filename}: cannot be used"
        log(f"{what} ({error.strerror or error}).")
        code = 2
    sys.exit(code)
