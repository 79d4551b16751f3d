"""Holding a command to the memory that there is, so that it ends with a line and is not killed. No torch here."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path

from composer.memory import get_free_memory


def limit_memory() -> None:
    """From here on, memory that this machine has not is not given to this process: asking for it raises MemoryError.

    Linux gives more than it has, and kills whoever makes use of it. Elsewhere nothing is done.
    """
    free, used = get_free_memory(), _read_data_size()
    if sys.platform != "linux" or free is None or used is None:
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = used + free
    with suppress(ValueError, OSError):
        resource.setrlimit(
            resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )


def _read_data_size() -> int | None:
    """The bytes that count against that limit already."""
    try:
        found = re.search(r"^VmData:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    except (OSError, ValueError):
        return None
    return 1024 * int(found[1]) if found else None
