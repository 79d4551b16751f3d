"""`python -m composer`: the process around the command line, with its signals, streams and memory limit.

Exit codes: 0, all is well; 1, a spec has problems; 2, the arguments or the files are at fault; 130, interrupted.
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":
    # While Python reads its modules there is nothing to tidy up, and nobody yet to say in a line that it was stopped.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from composer.cli.main import PIPE_CLOSED, main
from composer.cli.terminal import limit_memory, log

if __name__ == "__main__":
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever called, so that nobody wants to know
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, it is open as long as Python is
        getattr(sys, name).reconfigure(errors="replace")  # a terminal that has no ← gets a ?
    limit_memory()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = main()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has gone; Python would complain about it once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = PIPE_CLOSED
    except OSError as error:  # of stdout, where it goes to a disk that is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        what = "stdout: cannot be written" if error.filename is None else f"{error.filename}: cannot be used"
        log(f"{what} ({error.strerror or error}).")
        code = 2
    sys.exit(code)
