"""Limits of a model, and the memory that is available."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from attrs import field, frozen

from composer.layouts import IntRange


@frozen(kw_only=True)
class Limits:
    """The `parameters` that a model may have, and the `bytes` of its parameters and buffers; None means no limit.

    Shared tensors count once. Raises ValueError for anything but whole numbers of at least 0.
    """

    parameters: int | None = field(default=None, validator=IntRange(0, optional=True))
    bytes: int | None = field(default=None, validator=IntRange(0, optional=True))


PROC = Path("/proc")

GROUPS = Path("/sys/fs/cgroup")
"""Linux's files on the memory of the machine and of control groups, such as a container."""


def get_free_memory() -> int | None:
    """Return the bytes available before the OOM killer acts, swap included; None where it is unknown."""
    known = list(_iter_free_memory())
    return max(0, min(known)) if known else None


def _iter_free_memory() -> Iterator[int]:
    """Yield the memory left on the machine, and in each control group of this process, for versions 1 and 2 of cgroups.

    Cached files count as free, because Linux drops them when memory is needed.
    """
    memory = _read_numbers(PROC / "meminfo")
    if "MemAvailable" in memory:
        yield 1024 * (memory["MemAvailable"] + memory.get("SwapFree", 0))
    for line in _read_text(PROC / "self" / "cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            root, limit, used, cache = GROUPS, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root = GROUPS / "memory"
            limit, used, cache = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        # The ancestors have limits too, and in a container the path itself may not exist.
        inner = Path(path.strip("/"))
        for folder in (root / inner, *(root / outer for outer in inner.parents)):
            most, now = _read_text(folder / limit).strip(), _read_text(folder / used).strip()
            if most.isdecimal() and now.isdecimal():
                yield int(most) - int(now) + _read_numbers(folder / "memory.stat").get(cache, 0)


def _read_numbers(file: Path) -> dict[str, int]:
    """Parse lines such as `MemAvailable:   123 kB` and `inactive_file 123`."""
    return {name: int(number) for name, number in re.findall(r"^(\w+):?\s+(\d+)", _read_text(file), re.MULTILINE)}


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
