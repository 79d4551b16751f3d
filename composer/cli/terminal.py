"""Print to the terminal, read specs, write output files, and stop cleanly."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer import files as writing
from composer.errors import make_printable
from composer.files import make_partial_path
from composer.limits import get_free_memory

if TYPE_CHECKING:
    from rich.console import RenderableType

    from composer.graph import Graph


@contextmanager
def guard_from_interrupts() -> Iterator[None]:
    """Within it, Ctrl-C is kept, and raised as KeyboardInterrupt at the end.

    torch brings the process down where it is interrupted halfway into its own import.
    """
    came: list[int] = []
    before = _set_handler(lambda number, _: came.append(number))
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


@contextmanager
def mask_interrupts() -> Iterator[None]:
    """Within it, Ctrl-C waits for the end; the processes that multiprocessing starts never hear of it.

    Windows has nothing of the kind: there both go on as before.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing.resource_tracker import ensure_running

    ensure_running()  # or the first of them would start it, and starting it lets Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def drop_interrupts() -> None:
    """From here on, Ctrl-C is passed over."""
    _set_handler(signal.SIG_IGN)


def _set_handler(by: Any) -> Any:
    """The handler that was there before; None where nothing was changed, because only a main thread may do so."""
    is_main = threading.current_thread() is threading.main_thread()
    return signal.signal(signal.SIGINT, by) if is_main else None


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


MIN_TABLE_WIDTH = 40
"""Columns of a table, also where a terminal says that it has fewer: nothing could be read."""


class UsageError(Exception):
    """What the caller has to change, in one line: the command ends with it, and with exit code 2."""


def print_text(text: str) -> None:
    """Lines of the result, on stdout, perhaps in colours. Whoever names a file makes sure that it can be `shown`."""
    sys.stdout.write(f"{text}\n")


def log(text: str) -> None:
    """A line about what is going on, on stderr, where it is seen at once and stays out of a pipe."""
    lines = "\n".join(map(make_printable, text.split("\n")))
    sys.stderr.write(f"{lines}\n")
    sys.stderr.flush()


def render(*parts: RenderableType) -> str:
    """Tables and text as rich draws them: as wide as the terminal, and with colours only where stdout is one."""
    from rich.console import Console

    console = Console(markup=False, highlight=False, emoji=False)
    console.width = max(console.width, MIN_TABLE_WIDTH)
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def read_spec(file: str) -> Graph:
    """The graph that a file holds, a spec or what composer.save wrote; a pipe is read once.

    Raises UsageError where there is no such file, SpecError for what is in it.
    """
    from composer.spec import read

    check_readable(file)
    return read(file)


def read_spec_text(file: str) -> str:
    """The text that a file holds; a pipe is read once. Raises as `read_spec` does."""
    from composer.spec import yaml as characters
    from composer.spec.reader import is_weights_file

    check_readable(file)
    if is_weights_file(file):
        raise UsageError(f"{file}: this is a weights file; give the YAML spec.")
    return characters.read_text(file)


def check_file(file: str) -> None:
    """As `check_readable`, and for what is no file either: a pipe would be waited for, a device has no end."""
    if _is_special(file):
        raise UsageError(f"{file}: this is a pipe or a device; name a file.")
    check_readable(file)


def check_readable(file: str) -> None:
    """Raise UsageError where a file cannot be opened, with the next step. A pipe is left to who reads it: once."""
    if not file:
        raise UsageError("'' names no file; check the path.")
    if _is_special(file):
        return
    try:
        with Path(file).open("rb"):
            return
    except FileNotFoundError:
        raise UsageError(f"{file}: there is no such file; check the path.") from None
    except IsADirectoryError:
        raise UsageError(f"{file}: this is a folder; name a file in it.") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: cannot be read ({getattr(error, 'strerror', error)}).") from error


def _is_special(file: str) -> bool:
    path = Path(file)
    try:
        return path.exists() and not path.is_file() and not path.is_dir()
    except (OSError, ValueError):
        return False


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
    """As `composer.files` has it. Raises UsageError where the disk refuses."""
    try:
        writing.write_atomically(path, fill)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror or error}).") from error
