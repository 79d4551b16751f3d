"""The pairs of a matrix as text: a table for people, CSV and JSON for programs. No torch here."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from composer.commands.matrix import Matrix
from composer.commands.terminal import render
from composer.feature import format_count
from composer.pairing import PairResult, Verdict
from composer.text.plain import get_non_default_fields
from composer.ways import format_necks_entry

MAX_LISTED_PAIRS = 150
"""Up to so many pairs are listed, each with what stands between or why nothing does; more are drawn as a grid."""

GLYPHS: Mapping[Verdict, str] = {"fits": "●", "necks": "◐", "refused": "·"}
MEANINGS: Mapping[Verdict, str] = {
    "fits": "fits as it is",
    "necks": "fits with necks, or with other levels of the encoder",
    "refused": "does not fit",
}
COLUMNS = ("encoder", "decoder", "verdict", "out_indices", "necks", "fields", "because")


def as_csv(matrix: Matrix) -> str:
    """A line for each pair; lists and fields in it are JSON."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _flatten_value(value) for name, value in told.items()} for told in iter_records(matrix))
    return out.getvalue()


def as_json(matrix: Matrix) -> str:
    """A list with an object for each pair, a line each."""
    return "".join(["[\n", ",\n".join(json.dumps(told) for told in iter_records(matrix)), "\n]\n"])


def iter_records(matrix: Matrix) -> Iterator[dict[str, Any]]:
    """Each pair as plain values: names, the verdict, the levels and necks that it takes, the decoder's fields."""
    for encoder, cells in matrix.iter_rows():
        for decoder, cell in zip(matrix.decoders, cells, strict=True):
            values = (
                encoder,
                decoder,
                cell.verdict,
                cell.levels and list(cell.levels),
                _dump_necks(cell),
                _get_decoder_fields(cell),
                cell.because,
            )
            yield dict(zip(COLUMNS, values, strict=True))


def _dump_necks(cell: PairResult) -> list[Any]:
    named = [(type(neck).__name__, get_non_default_fields(neck, "neck")) for neck in cell.necks]
    return [{name: told} if told else name for name, told in named]


def _get_decoder_fields(cell: PairResult) -> dict[str, Any]:
    return get_non_default_fields(cell.decoder, "decoder", {} if cell.decoder.source is None else {"name": None})


def _flatten_value(value: Any) -> Any:
    return "" if value in (None, [], {}) else json.dumps(value) if isinstance(value, list | dict) else value


def as_table(matrix: Matrix) -> str:
    """For people: few pairs one below the other, and of many a grid with a letter for each; then how many are what."""
    body = _format_pairs(matrix) if len(matrix.cells) <= MAX_LISTED_PAIRS else _format_grid(matrix)
    return f"{body}\n\n{format_summary(matrix)}"


def format_summary(matrix: Matrix) -> str:
    """How many pairs there are of each verdict."""
    total = len(matrix.cells)
    told = [f"{GLYPHS[verdict]} {count:,} {MEANINGS[verdict]}" for verdict, count in matrix.counts.items()]
    sides = [
        format_count(len(matrix.encoders), "encoder", form=","),
        format_count(len(matrix.decoders), "decoder", form=","),
    ]
    return "\n".join([f"{' × '.join(sides)}, {format_count(total, 'pair', form=',')}:", *told])


def _format_pairs(matrix: Matrix) -> str:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("encoder", "decoder", "", "what it takes, or why not"):
        table.add_column(heading, no_wrap=heading in ("encoder", "decoder"))
    for encoder, cells in matrix.iter_rows():
        for place, (decoder, cell) in enumerate(zip(matrix.decoders, cells, strict=True)):
            table.add_row("" if place else encoder, decoder, GLYPHS[cell.verdict], describe_cell(cell))
    return render(table)


def describe_cell(cell: PairResult) -> str:
    """What stands beside a verdict: the levels and the necks that the pair takes, or why it does not fit."""
    if cell.because is not None:
        return cell.because
    told = [f"out_indices: {list(cell.levels)}"] if cell.levels else []
    return "; ".join([*told, *([format_necks_entry(cell.necks)] if cell.necks else [])])


def _format_grid(matrix: Matrix) -> str:
    """A row for each encoder, a column for each decoder, headed by its number."""
    wide = max(map(len, matrix.encoders))
    legend = [f"{number:>3} {name}" for number, name in enumerate(matrix.decoders, 1)]
    numbers = [str(number).rjust(2) for number in range(1, len(matrix.decoders) + 1)]
    heads = [" " * wide + " " + " ".join(number[digit] for number in numbers) for digit in (0, 1)]
    body = [
        f"{encoder.ljust(wide)} {' '.join(GLYPHS[cell.verdict] for cell in cells)}"
        for encoder, cells in matrix.iter_rows()
    ]
    return "\n".join([*legend, "", *(line.rstrip() for line in heads), *body])
