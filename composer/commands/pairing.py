"""`matrix`: where the pairs go, and in which form. No torch here."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from composer.commands.matrix import compute_matrix
from composer.commands.matrix_text import as_csv, as_json, as_table, format_summary
from composer.commands.outfile import check_writable, write_output_file
from composer.commands.terminal import UsageError, log

TEXT_FORMATS = {"table": as_table, "csv": as_csv, "json": as_json}
MATRIX_SUFFIXES = {"table": (".txt",), "csv": (".csv",), "json": (".json",), "png": (".png",)}


def write_matrix(encoders: Sequence[str], decoders: Sequence[str], form: str, out: str | None, jobs: int) -> None:
    """Work out the pairs of the encoders and decoders that match any of the patterns, and write them.

    They go to stdout where no file is named.

    Raises UsageError for a pattern that nothing matches, and for a file that cannot be written.
    """
    if form == "png" and out is None:
        raise UsageError("a picture needs a file: --format png -o matrix.png.")
    path = None if out is None else check_writable(out, MATRIX_SUFFIXES[form])
    found = compute_matrix(encoders, decoders, jobs)
    if path is None:
        sys.stdout.write(TEXT_FORMATS[form](found).rstrip("\n") + "\n")
        return
    if form == "png":
        from composer.commands.matrix_picture import draw_matrix

        picture = draw_matrix(found)
        write_output_file(path, picture.save)
    else:
        text = TEXT_FORMATS[form](found)
        write_output_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    log(f"{format_summary(found)}\nwrote {out}")
