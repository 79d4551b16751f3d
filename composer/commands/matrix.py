"""`matrix`: every encoder beside every decoder, worked out by as many processes as there are. No torch here."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain

from attrs import frozen

from composer.catalogue import list_networks as catalogued
from composer.commands.interrupts import drop_interrupts, mask_interrupts
from composer.commands.listing import is_match
from composer.commands.terminal import UsageError
from composer.facts import describe
from composer.pairing import (
    VERDICTS,
    PairResult,
    Verdict,
    copy_for_encoder,
    evaluate_pairs,
    group_equivalent,
    list_decoder_names,
)
from composer.parts import PART_REGISTRY, PARTS, ProbedEncoder, get_part_name

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
