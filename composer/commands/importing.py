"""`import terratorch CONFIG`: a config as a spec, and all of it that a spec does not hold. No torch here."""

from __future__ import annotations

import sys

from composer.commands.outfile import check_writable, write_output_file
from composer.commands.terminal import check_readable, log, print_text
from composer.problem import make_printable


def import_terratorch(config: str, out: str | None) -> None:
    """Write the spec of a TerraTorch config to `out` or to stdout, and to stderr what was set aside.

    Raises SpecError for a config that has no spec, and UsageError for files that cannot be read or written.
    """
    from composer.terratorch.configs import read_config
    from composer.text import write

    check_readable(config)
    path = None if out is None else check_writable(out, (".yaml", ".yml"), [("config", config)])
    translation = read_config(config)
    for found in translation.notes:
        log(found.said("note"))
    spec = write(translation.graph)
    if path is None:
        sys.stdout.write(spec)
        return
    write_output_file(path, lambda partial: partial.write_text(spec, encoding="utf-8"))
    print_text(f"wrote {make_printable(str(out))}")
