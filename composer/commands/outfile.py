"""Files that a command writes: refused before the work where they cannot be, and written whole or not at all."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from pathlib import Path

from composer.commands.terminal import UsageError


def check_writable(file: str, suffixes: Collection[str]) -> Path:
    """Where `file` will be written, links followed. Raises UsageError where that cannot be, before any work is done."""
    path = Path(file).resolve()
    known = " or ".join(suffixes)
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"{file}: the name must end in {known}.")
    if path.exists() and not path.is_file():
        raise UsageError(f"{file}: this is no file that could be replaced; choose another name.")
    if not path.parent.is_dir():
        raise UsageError(f"{file}: there is no folder {path.parent}; make it first.")
    trial = _beside(path)
    try:
        trial.touch(exist_ok=False)
    except OSError as error:
        raise UsageError(f"{file}: cannot be written ({error.strerror}); choose another folder.") from error
    trial.unlink(missing_ok=True)
    return path


def write_whole(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write a file beside `path`, then put it in its place: no one ever sees half of it.

    Raises UsageError where the disk refuses; whatever happens, nothing else is left behind.
    """
    partial = _beside(path)
    try:
        fill(partial)
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror or error}).") from error
    finally:
        partial.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    # The suffix stays, because writers choose the format by it.
    return path.with_name(f".{secrets.token_hex(8)}.partial{path.suffix}")
