"""Write files whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex


def resolve_target(file: str | os.PathLike[str]) -> Path:
    """Return where `file` will be written, with links followed.

    Raises OSError for a folder, a device, a pipe, and a file that may not be written to.
    """
    try:
        path = Path(file).resolve()
        there = path.stat() if path.exists() else None
    except (RuntimeError, ValueError) as error:  # links in a circle, and invalid characters
        raise OSError(errno.EINVAL, str(error), str(file)) from error
    if there is None:
        return path
    if stat.S_ISDIR(there.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    if not stat.S_ISREG(there.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file, so it is not replaced", str(file))
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
    return path


def write_atomically(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write a file beside `path`, then move it there in one step, so that nobody reads half of it.

    It has the permissions of the file that it replaces, or those of a new file. Nothing else is left behind.
    """
    partial = make_partial_path(path)
    try:
        # Before `fill`, because some writers create files that only the owner can read.
        partial.touch(exist_ok=False)
        mode = stat.S_IMODE((path if path.exists() else partial).stat().st_mode)
        fill(partial)
        partial.chmod(mode)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def make_partial_path(path: Path) -> Path:
    """Return an unused name in the folder of `path`, from which a file can be moved there in one step."""
    # Writers choose the format by the suffix.
    return path.with_name(f".{token_hex(8)}.partial{path.suffix}")
