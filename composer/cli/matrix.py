"""`matrix`: print which encoders and decoders fit together."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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
    write_text,
)
from composer.compatibility import (
    VERDICTS,
    PairResult,
    Verdict,
    evaluate_pairs,
    list_decoder_names,
)
from composer.encoder_info import describe
from composer.layouts import format_count
from composer.neck_paths import format_necks_entry
from composer.parts import PART_REGISTRY, PARTS, ProbedEncoder
from composer.parts.base import get_part_name
from composer.spec.writer import get_non_default_fields

MIN_PARALLEL_ENCODERS = 40
"""Encoders from which starting processes pays off."""

MAX_LISTED_PAIRS = 150
"""Pairs that a table lists one by one; of more, it counts the verdicts of each decoder."""

GLYPHS: Mapping[Verdict, str] = {"fits": "●", "necks": "◐", "refused": "·"}

MEANINGS: Mapping[Verdict, str] = {
    "fits": "fits as it is",
    "necks": "fits with necks, or with other levels of the encoder",
    "refused": "does not fit",
}


def write_matrix(encoders: Sequence[str], decoders: Sequence[str], form: str, out: str | None, jobs: int) -> None:
    """Evaluate the pairs of all encoders and decoders that match the patterns; write them to `out` or to stdout.

    Raises UsageError for a pattern that nothing matches, and for a file that cannot be written.
    """
    format_cells, suffix = {"table": (as_table, ".txt"), "csv": (as_csv, ".csv"), "json": (as_json, ".json")}[form]
    path = None if out is None else check_writable(out, (suffix,))
    cells = evaluate_matrix(encoders, decoders, jobs)
    write_text(format_cells(cells), out, path)
    if path is not None:
        log(format_summary(cells))


def evaluate_matrix(encoders: Sequence[str], decoders: Sequence[str], jobs: int) -> list[PairResult]:
    """Pair the encoders and decoders that match any of the patterns, encoder by encoder, in `jobs` processes.

    Progress is shown on stderr. Raises UsageError for a pattern that nothing matches.
    """
    known = list_decoder_names(PART_REGISTRY)
    chosen: dict[str, None] = {}
    for pattern in decoders:
        names = [name for name in known if is_match(name, pattern)]
        if not names:
            raise UsageError(f"no decoder is named {pattern!r}; there are {', '.join(known)}")
        chosen |= dict.fromkeys(names)
    parts: dict[str, ProbedEncoder] = {}
    for pattern in encoders:
        names = _find_encoder_names(pattern)
        if not names:
            raise UsageError(f"no encoder is named {pattern!r}; a pattern has stars, in quotes: 'timm/*resnet*'")
        parts |= {name: _build_encoder(name) for name in names}
    return list(_iter_cells(list(parts.values()), tuple(chosen), jobs))


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


def _iter_cells(encoders: Sequence[ProbedEncoder], decoders: tuple[str, ...], jobs: int) -> Iterator[PairResult]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    options: dict[str, Any] = {"console": console, "transient": True, "disable": not console.is_terminal}
    rows = _compute_rows([(encoder, decoders) for encoder in encoders], jobs)
    for cells in track(rows, "encoders paired", len(encoders), **options):
        yield from cells


def _compute_rows(work: Sequence[tuple[ProbedEncoder, tuple[str, ...]]], jobs: int) -> Iterator[tuple[PairResult, ...]]:
    if jobs == 1 or len(work) < MIN_PARALLEL_ENCODERS:
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


def as_csv(cells: Sequence[PairResult]) -> str:
    """Format a line for each pair; lists and fields in it are JSON."""
    records = list(map(_build_record, cells))
    out = io.StringIO()
    writer = csv.DictWriter(out, records[0], lineterminator="\n")
    writer.writeheader()
    for record in records:
        # Lists and mappings are JSON, except for empty ones.
        lists = {name: json.dumps(value) for name, value in record.items() if isinstance(value, list | dict) and value}
        writer.writerow({name: lists.get(name, value or "") for name, value in record.items()})
    return out.getvalue()


def as_json(cells: Sequence[PairResult]) -> str:
    """Format a list with an object for each pair, a line each."""
    lines = ",\n".join(json.dumps(_build_record(cell)) for cell in cells)
    return f"[\n{lines}\n]\n"


def _build_record(cell: PairResult) -> dict[str, Any]:
    """Return a pair as plain values: names, verdict, levels, necks, fields of the decoder, reason."""
    necks = [(type(neck).__name__, get_non_default_fields(neck, "neck")) for neck in cell.necks]
    name_field = {} if cell.decoder.source is None else {"name": None}
    return {
        "encoder": get_part_name(cell.encoder),
        "decoder": get_part_name(cell.decoder),
        "verdict": cell.verdict,
        "out_indices": cell.levels and list(cell.levels),
        "necks": [{name: fields} if fields else name for name, fields in necks],
        "fields": get_non_default_fields(cell.decoder, "decoder", name_field),
        "because": cell.because,
    }


def as_table(cells: Sequence[PairResult]) -> str:
    """Format a table for people: each pair, or of many pairs the count of each verdict per decoder; then a summary."""
    body = _format_pairs(cells) if len(cells) <= MAX_LISTED_PAIRS else _format_counts(cells)
    return f"{body}\n\n{format_summary(cells)}\n"


def format_summary(cells: Sequence[PairResult]) -> str:
    """Return the number of pairs of each verdict."""
    encoders = len({get_part_name(cell.encoder) for cell in cells})
    counts = Counter(cell.verdict for cell in cells)
    sides = (
        f"{format_count(encoders, 'encoder', form=',')} × {format_count(len(cells) // encoders, 'decoder', form=',')}"
    )
    lines = [f"{GLYPHS[verdict]} {counts[verdict]:,} {MEANINGS[verdict]}" for verdict in VERDICTS]
    return "\n".join([f"{sides}, {format_count(len(cells), 'pair', form=',')}:", *lines])


def _format_pairs(cells: Sequence[PairResult]) -> str:
    table = build_table()
    for heading in ("encoder", "decoder", "", "what it takes, or why not"):
        table.add_column(heading, no_wrap=heading in ("encoder", "decoder"))
    previous = ""
    for cell in cells:
        encoder, decoder = get_part_name(cell.encoder), get_part_name(cell.decoder)
        levels = [f"out_indices: {list(cell.levels)}"] if cell.levels else []
        necks = [format_necks_entry(cell.necks)] if cell.necks else []
        reason = cell.because or "; ".join([*levels, *necks])
        table.add_row("" if encoder == previous else encoder, decoder, GLYPHS[cell.verdict], reason)
        previous = encoder
    return render(table)


def _format_counts(cells: Sequence[PairResult]) -> str:
    counts = Counter((get_part_name(cell.decoder), cell.verdict) for cell in cells)
    table = build_table("decoder")
    for verdict in VERDICTS:
        table.add_column(GLYPHS[verdict], justify="right")
    for decoder in dict.fromkeys(decoder for decoder, _ in counts):
        table.add_row(decoder, *(f"{counts[decoder, verdict]:,}" for verdict in VERDICTS))
    return f"{render(table)}\n\nFor each pair: --format csv or --format json."
