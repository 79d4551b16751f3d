"""Print to the terminal, read specs, and write output files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from composer import files
from composer.errors import make_printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from composer.graph import Graph


class UsageError(Exception):
    """An error of the caller in one line; the command ends with it, and with exit code 2."""


def print_text(text: str) -> None:
    """Print lines of the result to stdout. The caller makes names of files printable."""
    sys.stdout.write(f"{text}\n")


def log(text: str) -> None:
    """Print progress, notes and errors to stderr at once."""
    lines = "\n".join(map(make_printable, text.split("\n")))
    sys.stderr.write(f"{lines}\n")
    sys.stderr.flush()


MIN_TABLE_WIDTH = 40
"""Columns below which a table would cut its names."""


def build_table(*headings: str, gap: int = 2) -> Table:
    """Build an empty table with a line under its headings. Its cells are folded rather than cut."""
    from rich import box
    from rich.table import Column, Table

    columns = [Column(heading, overflow="fold") for heading in headings]
    return Table(*columns, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap, 0, 0))


def render(*parts: RenderableType) -> str:
    """Render tables and text with rich: as wide as the terminal, with colours only where stdout is a terminal."""
    from rich.console import Console

    console = Console(markup=False, highlight=False, emoji=False)
    console.width = max(console.width, MIN_TABLE_WIDTH)
    with console.capture() as capture:
        console.print(*parts, sep="\n")
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())


def read_spec(file: str) -> Graph:
    """Read the graph of a spec or of a file that composer.save wrote; a pipe is read once.

    Raises UsageError for a file that cannot be read, and SpecError for an invalid spec.
    """
    from composer.spec.reader import read

    check_readable(file)
    return read(file)


def check_readable(file: str) -> None:
    """Raise UsageError for a file that cannot be opened. Pipes are not opened: they can be read only once."""
    if not file:
        raise UsageError("'' names no file; check the path.")
    path = Path(file)
    try:
        if not path.is_fifo():
            path.open("rb").close()
    except FileNotFoundError:
        raise UsageError(f"{file}: there is no such file; check the path.") from None
    except IsADirectoryError:
        raise UsageError(f"{file}: this is a folder; name a file in it.") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: cannot be read ({getattr(error, 'strerror', error)}).") from error


def check_file(file: str) -> None:
    """Raise UsageError for a file that cannot be read, and for pipes and devices, which may never end."""
    check_readable(file)
    if not Path(file).is_file():
        raise UsageError(f"{file}: this is a pipe or a device; name a file.")


def check_writable(file: str, suffixes: Collection[str], inputs: Iterable[tuple[str, str]] = ()) -> Path:
    """Return the path that will be written, with links resolved.

    `inputs` are (kind, file) pairs of what the command reads. Raises UsageError where `file` cannot be written or is
    one of `inputs`.
    """
    if Path(file).suffix.lower() not in suffixes:
        raise UsageError(f"{file}: the name must end in {' or '.join(suffixes)}.")
    try:
        path = files.resolve_target(file)
        trial = files.make_partial_path(path)
        trial.touch(exist_ok=False)
        trial.unlink()
    except OSError as error:
        raise UsageError(f"{file}: cannot be written ({error.strerror}); choose another name or folder.") from error
    for kind, other in inputs:
        with suppress(OSError, ValueError):  # one of them does not exist
            if path.samefile(other):
                raise UsageError(f"{file}: this is the {kind} itself, which would be lost; choose another name.")
    return path


def write_output(file: str, path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write a file whole or not at all. Raises UsageError where that fails."""
    try:
        files.write_atomically(path, fill)
    except OSError as error:
        raise UsageError(f"{file}: cannot be written ({error.strerror or error}).") from error


def write_text(text: str, file: str | None, path: Path | None) -> None:
    """Write text to a file that `check_writable` has checked, and say so, or without one to stdout."""
    if file is None or path is None:
        sys.stdout.write(text)
    else:
        write_output(file, path, lambda partial: partial.write_text(text, encoding="utf-8"))
        print_text(f"wrote {make_printable(file)}")
