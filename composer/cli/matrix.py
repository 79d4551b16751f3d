"""`matrix`: print which encoders and decoders fit together."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from composer.cli.list import find_encoder_names, is_match
from composer.cli.terminal import UsageError, build_table, check_writable, handle_interrupts, log, render, write_text
from composer.compatibility import (
    PairResult,
    Verdict,
    evaluate_pairs,
    list_decoder_names,
)
from composer.encoder_info import describe
from composer.layouts import format_count
from composer.neck_paths import format_necks_entry
from composer.parts import PART_REGISTRY, ProbedEncoder
from composer.parts.base import get_part_name
from composer.spec.writer import get_non_default_fields

CHUNK = 8
"""Encoders that a process evaluates at a time; starting one pays off only for so many."""

MAX_LISTED_PAIRS = 150
"""Pairs that a table lists one by one; of more, it counts the verdicts of each decoder."""

LEGEND: dict[Verdict, tuple[str, str]] = {
    "fits": ("●", "fits as it is"),
    "necks": ("◐", "fits with necks, or with other levels of the encoder"),
    "refused": ("·", "does not fit"),
}
"""For each verdict its sign in tables, and its meaning."""


def write_matrix(encoders: Sequence[str], decoders: Sequence[str], form: str, out: str | None, jobs: int) -> None:
    """Evaluate the pairs of all encoders and decoders that match the patterns; write them to `out` or to stdout.

    Raises UsageError for a pattern that nothing matches, and for a file that cannot be written.
    """
    format_pairs, suffix = {"table": (as_table, ".txt"), "csv": (as_csv, ".csv"), "json": (as_json, ".json")}[form]
    path = None if out is None else check_writable(out, (suffix,))
    pairs = evaluate_matrix(encoders, decoders, jobs)
    write_text(format_pairs(pairs), out, path)
    if path is not None:
        log(format_summary(pairs))


def evaluate_matrix(encoders: Sequence[str], decoders: Sequence[str], jobs: int) -> list[PairResult]:
    """Pair the encoders and decoders that match any of the patterns, encoder by encoder, in `jobs` processes.

    Progress is shown on stderr. Raises UsageError for a pattern that nothing matches.
    """
    from rich.console import Console
    from rich.progress import track

    known = list_decoder_names(PART_REGISTRY)
    names: dict[str, None] = {}
    for pattern in decoders:
        matching = [name for name in known if is_match(name, pattern)]
        if not matching:
            raise UsageError(f"no decoder is named {pattern!r}; there are {', '.join(known)}")
        names |= dict.fromkeys(matching)
    parts = {name: encoder for pattern in encoders for name, encoder in _find_encoders(pattern).items()}
    console = Console(stderr=True)
    options: dict[str, Any] = {"console": console, "transient": True, "disable": not console.is_terminal}
    rows = _compute_rows([(encoder, tuple(names)) for encoder in parts.values()], jobs)
    return [pair for row in track(rows, "encoders paired", len(parts), **options) for pair in row]


def _find_encoders(pattern: str) -> dict[str, ProbedEncoder]:
    """Return the encoders that match, by name; a name without stars need not be listed.

    Raises UsageError where there is none.
    """
    encoders = {}
    for name in find_encoder_names(pattern) or ([] if set(pattern) & set("*?[") else [pattern]):
        source, slash, network = name.partition("/")
        part = PART_REGISTRY.get(name) or PART_REGISTRY.get(source + slash)
        if part is not None and issubclass(part, ProbedEncoder) and network:
            encoders[name] = part(network)  # type: ignore[call-arg]
    if not encoders:
        raise UsageError(f"no encoder is named {pattern!r}; a pattern has stars, in quotes: 'timm/*resnet*'")
    return encoders


def _compute_rows(work: Sequence[tuple[ProbedEncoder, tuple[str, ...]]], jobs: int) -> Iterator[tuple[PairResult, ...]]:
    processes = min(jobs, len(work) // CHUNK)
    if processes < 2:
        yield from map(_compute_row, work)
        return
    # Ctrl-C reaches all processes of a terminal. Those of the pool ignore it from their start; this one ends them.
    with handle_interrupts(signal.SIG_IGN):
        pool = multiprocessing.get_context("spawn").Pool(processes, signal.signal, (signal.SIGINT, signal.SIG_IGN))
    with pool:
        yield from pool.imap(_compute_row, work, chunksize=CHUNK)


def _compute_row(work: tuple[ProbedEncoder, tuple[str, ...]]) -> tuple[PairResult, ...]:
    encoder, decoders = work
    return evaluate_pairs(encoder, {name: PART_REGISTRY[name] for name in decoders}, describe)


def as_csv(pairs: Sequence[PairResult]) -> str:
    """Format a line for each pair; lists and mappings in it are JSON, and empty where there are none."""
    out = io.StringIO()
    records = list(map(_build_record, pairs))
    writer = csv.DictWriter(out, records[0], lineterminator="\n")
    writer.writeheader()
    for record in records:
        texts = {
            name: value if isinstance(value, str) else json.dumps(value) for name, value in record.items() if value
        }
        writer.writerow(texts)
    return out.getvalue()


def as_json(pairs: Sequence[PairResult]) -> str:
    """Format a list with an object for each pair."""
    return json.dumps(list(map(_build_record, pairs)), indent=2) + "\n"


def _build_record(pair: PairResult) -> dict[str, Any]:
    """Return a pair as plain values: names, verdict, levels, necks, fields of the decoder, reason."""
    necks = [(type(neck).__name__, get_non_default_fields(neck, "neck")) for neck in pair.necks]
    name_field = {} if pair.decoder.source is None else {"name": None}
    return {
        "encoder": get_part_name(pair.encoder),
        "decoder": get_part_name(pair.decoder),
        "verdict": pair.verdict,
        "out_indices": pair.levels and list(pair.levels),
        "necks": [{name: fields} if fields else name for name, fields in necks],
        "fields": get_non_default_fields(pair.decoder, "decoder", name_field),
        "because": pair.because,
    }


def as_table(pairs: Sequence[PairResult]) -> str:
    """Format a table for people: each pair, or of many pairs the count of each verdict per decoder; then a summary."""
    body = _format_pairs(pairs) if len(pairs) <= MAX_LISTED_PAIRS else _format_counts(pairs)
    return f"{body}\n\n{format_summary(pairs)}\n"


def format_summary(pairs: Sequence[PairResult]) -> str:
    """Return the number of pairs of each verdict."""
    encoders = len({get_part_name(pair.encoder) for pair in pairs})
    sides = ((encoders, "encoder"), (len(pairs) // encoders, "decoder"))
    product = " × ".join(format_count(*side, form=",") for side in sides)
    counts = Counter(pair.verdict for pair in pairs)
    lines = [f"{sign} {counts[verdict]:,} {meaning}" for verdict, (sign, meaning) in LEGEND.items()]
    return "\n".join([f"{product}, {format_count(len(pairs), 'pair', form=',')}:", *lines])


def _format_pairs(pairs: Sequence[PairResult]) -> str:
    table = build_table("encoder", "decoder", "", "what it takes, or why not")
    for column in table.columns[:2]:
        column.no_wrap = True
    previous = ""
    for pair in pairs:
        encoder = get_part_name(pair.encoder)
        levels = [f"out_indices: {list(pair.levels)}"] if pair.levels else []
        necks = [format_necks_entry(pair.necks)] if pair.necks else []
        reason = pair.because or "; ".join([*levels, *necks])
        name = "" if encoder == previous else encoder
        table.add_row(name, get_part_name(pair.decoder), LEGEND[pair.verdict][0], reason)
        previous = encoder
    return render(table)


def _format_counts(pairs: Sequence[PairResult]) -> str:
    counts = Counter((get_part_name(pair.decoder), pair.verdict) for pair in pairs)
    table = build_table("decoder")
    for sign, _ in LEGEND.values():
        table.add_column(sign, justify="right")
    for decoder in dict.fromkeys(decoder for decoder, _ in counts):
        table.add_row(decoder, *(f"{counts[decoder, verdict]:,}" for verdict in LEGEND))
    return f"{render(table)}\n\nFor each pair: --format csv or --format json."
