"""`fit FILE`: a spec with the fewest changes that make it lawful. No torch here."""

from __future__ import annotations

import sys

from composer.commands.outfile import check_writable, write_output_file
from composer.commands.terminal import UsageError, log, read_spec_text

SPEC_SUFFIXES = (".yaml", ".yml")


def autofix_spec(file: str, *, in_place: bool) -> None:
    """Write the mended spec to stdout, or in place of the file, and to stderr what was put in.

    Raises SpecError where nothing mends it, and UsageError for a file that cannot be read or written, or whose
    comments would be lost.
    """
    from composer.mending import autofix
    from composer.text import reads, write

    written = read_spec_text(file)
    graph = reads(written, name=file)
    path = check_writable(file, SPEC_SUFFIXES) if in_place else None
    mended = autofix(graph)
    if mended == graph:
        log(f"{file}: ok, there is nothing to mend")
        if path is None:
            sys.stdout.write(written)
        return
    text = write(mended)
    if path is None:
        sys.stdout.write(text)
        return
    if "#" in written:
        raise UsageError(f"{file}: what is written has no comments, and this file may have some; leave --write out.")
    write_output_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    log(f"wrote {file}")
