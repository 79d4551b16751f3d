"""Files that a command writes: refused before the work where they cannot be, and written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from composer import writing
from composer.commands.terminal import UsageError
from composer.writing import make_partial_path


def check_writable(file: str, suffixes: Collection[str], inputs: Iterable[tuple[str, str]] = ()) -> Path:
    """Where `file` will be written, links followed. `inputs` are the files that are read, each behind what it is.

    Raises UsageError where `file` cannot be written, and where it is one of `inputs`, before any work is done.
    """
    known = " or ".join(suffixes)
    if Path(file).suffix.lower() not in suffixes:
        raise UsageError(f"{file}: the name must end in {known}.")
    try:
        path = Path(file).resolve()
        is_other, is_in_folder = path.exists() and not path.is_file(), path.parent.is_dir()
    except (OSError, RuntimeError) as error:  # a name that is too long, links that lead in a circle
        raise _build_unwritable_error(file, error) from error
    if is_other:
        raise UsageError(f"{file}: this is no file that could be replaced; choose another name.")
    if not is_in_folder:
        raise UsageError(f"{file}: there is no folder {path.parent}; make it first.")
    for what, other in inputs:
        if _is_same(path, other):
            raise UsageError(f"{file}: this is the {what} itself, which would be lost; choose another name.")
    trial = make_partial_path(path)
    try:
        trial.touch(exist_ok=False)
    except OSError as error:
        raise _build_unwritable_error(file, error) from error
    trial.unlink(missing_ok=True)
    return path


def _build_unwritable_error(file: str, error: OSError | RuntimeError) -> UsageError:
    reason = getattr(error, "strerror", None) or "its links lead in a circle"
    return UsageError(f"{file}: cannot be written ({reason}); choose another name or folder.")


def _is_same(path: Path, other: str) -> bool:
    try:
        return path.samefile(other)
    except (OSError, ValueError):  # one of them is not there
        return False


def write_output_file(path: Path, fill: Callable[[Path], object]) -> None:
    """As `composer.writing` has it. Raises UsageError where the disk refuses."""
    try:
        writing.write_atomically(path, fill)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror or error}).") from error
