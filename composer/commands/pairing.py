"""`matrix`: where the pairs go, and in which form. No torch here."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from composer.commands.matrix import matrix
from composer.commands.matrix_text import as_csv, as_json, as_table, summary
from composer.commands.outfile import check_writable, write_whole
from composer.commands.terminal import UsageError, note

TEXTS = {"table": as_table, "csv": as_csv, "json": as_json}
SUFFIXES = {"table": (".txt",), "csv": (".csv",), "json": (".json",), "png": (".png",)}


def pair(encoders: Sequence[str], decoders: Sequence[str], form: str, out: str | None, jobs: int) -> None:
    """Work out the pairs of the encoders and decoders that match any of the patterns, and write them.

    They go to stdout where no file is named.

    Raises UsageError for a pattern that nothing matches, and for a file that cannot be written.
    """
    if form == "png" and out is None:
        raise UsageError("a picture needs a file: --format png -o matrix.png.")
    path = None if out is None else check_writable(out, SUFFIXES[form])
    found = matrix(encoders, decoders, jobs)
    if path is None:
        sys.stdout.write(TEXTS[form](found).rstrip("\n") + "\n")
        return
    if form == "png":
        from composer.commands.matrix_picture import drawn

        picture = drawn(found)
        write_whole(path, picture.save)
    else:
        text = TEXTS[form](found)
        write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    note(f"{summary(found)}\nwrote {out}")
