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

from composer.adapters.timm.catalogue import list_networks as catalogued
from composer.cli.list import is_match
from composer.cli.terminal import (
    UsageError,
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
from composer.parts import PART_REGISTRY, PARTS, ProbedEncoder, get_part_name
from composer.spec.writer import get_non_default_fields

MIN_PARALLEL_GROUPS = 8
"""So many kinds of encoders and more are shared out among processes, which take a moment to begin."""


@frozen
class Matrix:
    """The pairs of some encoders and some decoders, by their names, encoder by encoder."""

    encoders: tuple[str, ...]
    decoders: tuple[str, ...]
    cells: tuple[PairResult, ...]

    def iter_rows(self) -> Iterator[tuple[str, tuple[PairResult, ...]]]:
        """Each encoder with its cells, one for each decoder."""
        wide = len(self.decoders)
        for place, name in enumerate(self.encoders):
            yield name, self.cells[place * wide : (place + 1) * wide]

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many pairs there are of each verdict."""
        counted = Counter(cell.verdict for cell in self.cells)
        return {verdict: counted[verdict] for verdict in VERDICTS}


def compute_matrix(encoders: Sequence[str], decoders: Sequence[str], jobs: int) -> Matrix:
    """Pair the encoders and decoders that match any of the patterns, in `jobs` processes. Show progress on stderr.

    Raises UsageError for a pattern that nothing matches.
    """
    found = {pattern: _find_encoder_names(pattern) for pattern in encoders}
    every = list_decoder_names(PART_REGISTRY)
    chosen = {pattern: [name for name in every if is_match(name, pattern)] for pattern in decoders}
    for pattern, names in found.items():
        if not names:
            raise UsageError(f"no encoder is named {pattern!r}; a pattern has stars, in quotes: 'timm/*resnet*'")
    for pattern, names in chosen.items():
        if not names:
            raise UsageError(f"no decoder is named {pattern!r}; there are {', '.join(every)}")
    parts = [_build_encoder(name) for name in dict.fromkeys(chain.from_iterable(found.values()))]
    columned = tuple(dict.fromkeys(chain.from_iterable(chosen.values())))
    return Matrix(tuple(map(get_part_name, parts)), columned, tuple(_compute_cells(parts, columned, jobs)))


def _find_encoder_names(pattern: str) -> list[str]:
    """The encoders that are known by name and match; or the very one, of a source whose names are not known here."""
    named = [name for name, part in PARTS.items() if issubclass(part, ProbedEncoder) and not name.endswith("/")]
    known = [*(f"timm/{name}" for name in catalogued()), *named]
    found = [name for name in known if is_match(name, pattern)]
    source = f"{pattern.partition('/')[0]}/"
    is_one = (
        not set(pattern) & set("*?[") and source in PART_REGISTRY and issubclass(PART_REGISTRY[source], ProbedEncoder)
    )
    return found or ([pattern] if is_one else [])


def _build_encoder(name: str) -> ProbedEncoder:
    source, _, rest = name.partition("/")
    part = PART_REGISTRY[name] if name in PART_REGISTRY else PART_REGISTRY[f"{source}/"]
    found = part(rest)  # type: ignore[call-arg]
    assert isinstance(found, ProbedEncoder)
    return found


def _compute_cells(encoders: Sequence[ProbedEncoder], decoders: tuple[str, ...], jobs: int) -> Iterator[PairResult]:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    rows: dict[ProbedEncoder, tuple[PairResult, ...]] = {}
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        groups = group_equivalent(shown.track(encoders, description="encoders described"), describe)
        work = [(group[0], decoders) for group in groups]
        for group, cells in shown.track(
            zip(groups, _compute_rows(work, jobs), strict=True),
            total=len(groups),
            description="kinds of encoders paired",
        ):
            rows |= {encoder: tuple(copy_for_encoder(encoder, cell) for cell in cells) for encoder in group}
    for encoder in encoders:
        yield from rows[encoder]


def _compute_rows(work: Sequence[tuple[ProbedEncoder, tuple[str, ...]]], jobs: int) -> Iterator[tuple[PairResult, ...]]:
    if jobs == 1 or len(work) < MIN_PARALLEL_GROUPS:
        yield from map(_compute_row, work)
        return
    # Ctrl-C reaches all processes of a terminal. This one ends the others, which have nothing to say of it.
    with mask_interrupts():
        pool = multiprocessing.get_context("spawn").Pool(min(jobs, len(work)), drop_interrupts)
    with pool:
        yield from pool.imap(_compute_row, work, chunksize=8)


def _compute_row(work: tuple[ProbedEncoder, tuple[str, ...]]) -> tuple[PairResult, ...]:
    encoder, decoders = work
    return evaluate_pairs(encoder, {name: PART_REGISTRY[name] for name in decoders}, describe)


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
        from composer.cli.matrix_picture import draw_matrix

        picture = draw_matrix(found)
        write_output_file(path, picture.save)
    else:
        text = TEXT_FORMATS[form](found)
        write_output_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    log(f"{format_summary(found)}\nwrote {out}")
