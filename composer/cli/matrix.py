"""`matrix`: print which encoders and decoders fit together."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from attrs import frozen

from composer.adapters.timm.catalogue import list_networks
from composer.cli.list import is_match
from composer.cli.terminal import (
    UsageError,
    build_table,
    check_writable,
    drop_interrupts,
    log,
    mask_interrupts,
    render,
    write_output_file,
)
from composer.compatibility import (
    VERDICTS,
    PairResult,
    Verdict,
    copy_for_encoder,
    evaluate_pairs,
    group_equivalent,
    list_decoder_names,
)
from composer.encoder_info import describe
from composer.layouts import format_count
from composer.neck_paths import format_necks_entry
from composer.parts import PART_REGISTRY, PARTS, ProbedEncoder
from composer.parts.base import get_part_name
from composer.spec.writer import get_non_default_fields

MIN_PARALLEL_GROUPS = 8
"""Groups of encoders from which starting processes pays off."""

MAX_LISTED_PAIRS = 150
"""Pairs that a table lists one by one; of more, it counts the verdicts of each decoder."""

GLYPHS: Mapping[Verdict, str] = {"fits": "●", "necks": "◐", "refused": "·"}

MEANINGS: Mapping[Verdict, str] = {
    "fits": "fits as it is",
    "necks": "fits with necks, or with other levels of the encoder",
    "refused": "does not fit",
}

COLUMNS = ("encoder", "decoder", "verdict", "out_indices", "necks", "fields", "because")


@frozen
class Matrix:
    """The pairs of some encoders and some decoders, by their names, encoder by encoder."""

    encoders: tuple[str, ...]
    decoders: tuple[str, ...]
    cells: tuple[PairResult, ...]

    def iter_pairs(self) -> Iterator[tuple[str, str, PairResult]]:
        """Yield (encoder, decoder, result)."""
        names = ((encoder, decoder) for encoder in self.encoders for decoder in self.decoders)
        for (encoder, decoder), cell in zip(names, self.cells, strict=True):
            yield encoder, decoder, cell


def write_matrix(encoders: Sequence[str], decoders: Sequence[str], form: str, out: str | None, jobs: int) -> None:
    """Evaluate the pairs of all encoders and decoders that match the patterns; write them to `out` or to stdout.

    Raises UsageError for a pattern that nothing matches, and for a file that cannot be written.
    """
    write, suffix = {"table": (as_table, ".txt"), "csv": (as_csv, ".csv"), "json": (as_json, ".json")}[form]
    path = None if out is None else check_writable(out, (suffix,))
    matrix = compute_matrix(encoders, decoders, jobs)
    text = write(matrix)
    if path is None:
        sys.stdout.write(text.rstrip("\n") + "\n")
        return
    write_output_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    log(f"{format_summary(matrix)}\nwrote {out}")


def compute_matrix(encoders: Sequence[str], decoders: Sequence[str], jobs: int) -> Matrix:
    """Pair the encoders and decoders that match any of the patterns, in `jobs` processes. Show progress on stderr.

    Raises UsageError for a pattern that nothing matches.
    """
    matching = [_find_encoder_names(pattern) for pattern in encoders]
    known = list_decoder_names(PART_REGISTRY)
    chosen = [[name for name in known if is_match(name, pattern)] for pattern in decoders]
    for pattern, names in zip(encoders, matching, strict=True):
        if not names:
            raise UsageError(f"no encoder is named {pattern!r}; a pattern has stars, in quotes: 'timm/*resnet*'")
    for pattern, names in zip(decoders, chosen, strict=True):
        if not names:
            raise UsageError(f"no decoder is named {pattern!r}; there are {', '.join(known)}")
    parts = [_build_encoder(name) for name in dict.fromkeys(chain.from_iterable(matching))]
    columns = tuple(dict.fromkeys(chain.from_iterable(chosen)))
    return Matrix(tuple(map(get_part_name, parts)), columns, tuple(_compute_cells(parts, columns, jobs)))


def _find_encoder_names(pattern: str) -> list[str]:
    """Return the listed encoders that match, or a name without stars of a source whose names are not listed."""
    named = [name for name, part in PARTS.items() if issubclass(part, ProbedEncoder) and not name.endswith("/")]
    known = [*(f"timm/{name}" for name in list_networks()), *named]
    source = f"{pattern.partition('/')[0]}/"
    is_name = not set(pattern) & set("*?[")
    is_encoder = is_name and source in PART_REGISTRY and issubclass(PART_REGISTRY[source], ProbedEncoder)
    return [name for name in known if is_match(name, pattern)] or ([pattern] if is_encoder else [])


def _build_encoder(name: str) -> ProbedEncoder:
    source, _, rest = name.partition("/")
    part = PART_REGISTRY[name] if name in PART_REGISTRY else PART_REGISTRY[f"{source}/"]
    encoder = part(rest)  # type: ignore[call-arg]
    assert isinstance(encoder, ProbedEncoder)
    return encoder


def _compute_cells(encoders: Sequence[ProbedEncoder], decoders: tuple[str, ...], jobs: int) -> Iterator[PairResult]:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    rows: dict[ProbedEncoder, tuple[PairResult, ...]] = {}
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        groups = group_equivalent(progress.track(encoders, description="encoders described"), describe)
        results = zip(groups, _compute_rows([(group[0], decoders) for group in groups], jobs), strict=True)
        for group, cells in progress.track(results, total=len(groups), description="groups of encoders paired"):
            rows |= {encoder: tuple(copy_for_encoder(encoder, cell) for cell in cells) for encoder in group}
    for encoder in encoders:
        yield from rows[encoder]


def _compute_rows(work: Sequence[tuple[ProbedEncoder, tuple[str, ...]]], jobs: int) -> Iterator[tuple[PairResult, ...]]:
    if jobs == 1 or len(work) < MIN_PARALLEL_GROUPS:
        yield from map(_compute_row, work)
        return
    # Ctrl-C reaches all processes of a terminal; this one ends the others, and only this one prints a message.
    with mask_interrupts():
        pool = multiprocessing.get_context("spawn").Pool(min(jobs, len(work)), drop_interrupts)
    with pool:
        yield from pool.imap(_compute_row, work, chunksize=8)


def _compute_row(work: tuple[ProbedEncoder, tuple[str, ...]]) -> tuple[PairResult, ...]:
    encoder, decoders = work
    return evaluate_pairs(encoder, {name: PART_REGISTRY[name] for name in decoders}, describe)


def as_csv(matrix: Matrix) -> str:
    """Format a line for each pair; lists and fields in it are JSON."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for record in iter_records(matrix):
        writer.writerow({name: _flatten_value(value) for name, value in record.items()})
    return out.getvalue()


def _flatten_value(value: Any) -> Any:
    return "" if value in (None, [], {}) else json.dumps(value) if isinstance(value, list | dict) else value


def as_json(matrix: Matrix) -> str:
    """Format a list with an object for each pair, a line each."""
    return "".join(["[\n", ",\n".join(map(json.dumps, iter_records(matrix))), "\n]\n"])


def iter_records(matrix: Matrix) -> Iterator[dict[str, Any]]:
    """Yield each pair as plain values: names, verdict, levels, necks, fields of the decoder, reason."""
    for encoder, decoder, cell in matrix.iter_pairs():
        necks = [(type(neck).__name__, get_non_default_fields(neck, "neck")) for neck in cell.necks]
        name_field = {} if cell.decoder.source is None else {"name": None}
        values = (
            encoder,
            decoder,
            cell.verdict,
            cell.levels and list(cell.levels),
            [{name: fields} if fields else name for name, fields in necks],
            get_non_default_fields(cell.decoder, "decoder", name_field),
            cell.because,
        )
        yield dict(zip(COLUMNS, values, strict=True))


def as_table(matrix: Matrix) -> str:
    """Format a table for people: each pair, or of many pairs the count of each verdict per decoder; then a summary."""
    body = _format_pairs(matrix) if len(matrix.cells) <= MAX_LISTED_PAIRS else _format_counts(matrix)
    return f"{body}\n\n{format_summary(matrix)}"


def format_summary(matrix: Matrix) -> str:
    """Return the number of pairs of each verdict."""
    encoders, decoders = format_count(len(matrix.encoders), "encoder", form=","), len(matrix.decoders)
    pairs = format_count(len(matrix.cells), "pair", form=",")
    counts = Counter(cell.verdict for cell in matrix.cells)
    lines = [f"{GLYPHS[verdict]} {counts[verdict]:,} {MEANINGS[verdict]}" for verdict in VERDICTS]
    return "\n".join([f"{encoders} × {format_count(decoders, 'decoder', form=',')}, {pairs}:", *lines])


def _format_pairs(matrix: Matrix) -> str:
    table = build_table()
    for heading in ("encoder", "decoder", "", "what it takes, or why not"):
        table.add_column(heading, no_wrap=heading in ("encoder", "decoder"))
    for encoder, decoder, cell in matrix.iter_pairs():
        is_first = decoder == matrix.decoders[0]
        levels = [f"out_indices: {list(cell.levels)}"] if cell.levels else []
        necks = [format_necks_entry(cell.necks)] if cell.necks else []
        changes = "; ".join([*levels, *necks])
        table.add_row(encoder if is_first else "", decoder, GLYPHS[cell.verdict], cell.because or changes)
    return render(table)


def _format_counts(matrix: Matrix) -> str:
    counts = Counter((decoder, cell.verdict) for _, decoder, cell in matrix.iter_pairs())
    table = build_table("decoder")
    for verdict in VERDICTS:
        table.add_column(GLYPHS[verdict], justify="right")
    for decoder in matrix.decoders:
        table.add_row(decoder, *(f"{counts[decoder, verdict]:,}" for verdict in VERDICTS))
    return f"{render(table)}\n\nFor each pair: --format csv or --format json."
