"""Write files whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex


def resolve_target(file: str | os.PathLike[str]) -> Path:
    """Where `file` will be written, links followed. Raises OSError where there is what no file may take the place of.

    That is a folder, a device, a pipe, or a file that may not be written to.
    """
    try:
        path = Path(file).resolve()
        there = path.stat() if path.exists() else None
    except (RuntimeError, ValueError) as error:  # links that go round, and what no path may have in it
        raise OSError(errno.EINVAL, str(error), str(file)) from error
    if there is None:
        return path
    if stat.S_ISDIR(there.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    if not stat.S_ISREG(there.st_mode):
        raise OSError(errno.EINVAL, "This is no file that could be replaced", str(file))
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
    return path


def write_atomically(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write a file beside `path`, then put it in its place: no one ever sees half of it.

    It has the rights of the file that it replaces, or those that the system gives a new one. Whatever happens,
    nothing else is left behind.
    """
    partial = make_partial_path(path)
    try:
        # Also writers that make a file of their own, which nobody else may read, fill one that has its rights.
        partial.touch(exist_ok=False)
        rights = stat.S_IMODE((path if path.exists() else partial).stat().st_mode)
        fill(partial)
        partial.chmod(rights)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def make_partial_path(path: Path) -> Path:
    """The name of a file that nobody has, in the same folder: it can take the place of `path` in one step."""
    # The suffix stays, because writers choose the format by it.
    return path.with_name(f".{token_hex(8)}.partial{path.suffix}")
