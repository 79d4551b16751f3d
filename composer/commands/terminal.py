"""What the commands share: how they speak, and how they say that they cannot go on. No torch here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from composer.problem import make_printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from composer.graph import Graph


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
    from composer.text import read

    check_readable(file)
    return read(file)


def read_spec_text(file: str) -> str:
    """The text that a file holds; a pipe is read once. Raises as `graph_in` does."""
    from composer.text import characters
    from composer.text.embedded import is_weights_file

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
