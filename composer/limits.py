"""Limits of a model, and the memory that is available."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import Attribute, field, frozen


def _check_limit(_: object, attribute: Attribute[Any], value: Any) -> None:
    if value is not None and (type(value) is not int or value < 0):
        raise ValueError(f"{attribute.name} must be a whole number of at least 0 (got {value!r})")


@frozen(kw_only=True)
class Limits:
    """The `parameters` that a model may have, and the `bytes` of them and of its buffers; None is no limit.

    What several nodes share counts once. Raises ValueError for what is no number.
    """

    parameters: int | None = field(default=None, validator=_check_limit)
    bytes: int | None = field(default=None, validator=_check_limit)


PROC = Path("/proc")


GROUPS = Path("/sys/fs/cgroup")
"""Where Linux tells it: of the whole machine, and of the group of processes that a container is."""


def get_free_memory() -> int | None:
    """The bytes that can be had before something must give way, swap included; None where the system does not tell."""
    known = [*_iter_machine_memory(), *_iter_cgroup_memory()]
    return max(0, min(known)) if known else None


def _iter_machine_memory() -> Iterator[int]:
    told = _read_numbers(PROC / "meminfo")
    if "MemAvailable" in told:
        yield 1024 * (told["MemAvailable"] + told.get("SwapFree", 0))


def _iter_cgroup_memory() -> Iterator[int]:
    """What the groups that this process is in have left, in both of the forms in which Linux tells of groups.

    The files that a group has read are held in memory until it is wanted for something else.
    """
    for line in _read_text(PROC / "self" / "cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            yield from _iter_remaining_memory(GROUPS, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _iter_remaining_memory(GROUPS / "memory", path, *names)


def _iter_remaining_memory(root: Path, path: str, limit: str, used: str, reclaimable: str) -> Iterator[int]:
    """What is left in a group and in those around it. In a container the path may be one that is outside of it."""
    inner = Path(path.strip("/"))
    for folder in (root / inner, *(root / outer for outer in inner.parents)):
        most, now = _read_text(folder / limit).strip(), _read_text(folder / used).strip()
        if most.isdecimal() and now.isdecimal():
            yield int(most) - int(now) + _read_numbers(folder / "memory.stat").get(reclaimable, 0)


def _read_numbers(file: Path) -> dict[str, int]:
    """Lines such as `MemAvailable:   123 kB` and `inactive_file 123`, by name."""
    return {name: int(number) for name, number in re.findall(r"^(\w+):?\s+(\d+)", _read_text(file), re.MULTILINE)}


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
