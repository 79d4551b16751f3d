"""`fit` and `import`: print or write a spec that is made from another text."""

from __future__ import annotations

import sys

from composer.cli.terminal import (
    UsageError,
    check_readable,
    check_writable,
    log,
    print_text,
    read_spec_text,
    write_output_file,
)
from composer.errors import make_printable

SPEC_SUFFIXES = (".yaml", ".yml")


def autofix_spec(file: str, *, in_place: bool) -> None:
    """Write the mended spec to stdout, or in place of the file, and to stderr what was put in.

    Raises SpecError where nothing mends it, and UsageError for a file that cannot be read or written, or whose
    comments would be lost.
    """
    from composer.fixes import autofix
    from composer.spec import reads, write

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


def import_terratorch(config: str, out: str | None) -> None:
    """Write the spec of a TerraTorch config to `out` or to stdout, and to stderr notes on what the spec leaves out.

    Raises SpecError for a config that cannot be converted, and UsageError for files that cannot be read or written.
    """
    from composer.spec import write
    from composer.terratorch.configs import read_config

    check_readable(config)
    path = None if out is None else check_writable(out, (".yaml", ".yml"), [("config", config)])
    translation = read_config(config)
    for note in translation.notes:
        log(note.said("note"))
    spec = write(translation.graph)
    if path is None:
        sys.stdout.write(spec)
        return
    write_output_file(path, lambda partial: partial.write_text(spec, encoding="utf-8"))
    print_text(f"wrote {make_printable(str(out))}")
