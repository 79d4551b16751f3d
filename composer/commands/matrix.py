"""`matrix`: every encoder beside every decoder, worked out by as many processes as there are. No torch here."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain

from attrs import frozen

from composer.catalogue import names as catalogued
from composer.commands.interrupts import ignore_interrupts, interrupts_kept_from_others
from composer.commands.listing import matches
from composer.commands.terminal import UsageError
from composer.facts import describe
from composer.pairing import VERDICTS, Cell, Verdict, alike, columns, of, row
from composer.parts import PARTS, REGISTERED, Probed, part_name

WORTH_PROCESSES = 8
"""So many kinds of encoders and more are shared out among processes, which take a moment to begin."""


@frozen
class Matrix:
    """The pairs of some encoders and some decoders, by their names, encoder by encoder."""

    encoders: tuple[str, ...]
    decoders: tuple[str, ...]
    cells: tuple[Cell, ...]

    def rows(self) -> Iterator[tuple[str, tuple[Cell, ...]]]:
        """Each encoder with its cells, one for each decoder."""
        wide = len(self.decoders)
        for place, name in enumerate(self.encoders):
            yield name, self.cells[place * wide : (place + 1) * wide]

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many pairs there are of each verdict."""
        counted = Counter(cell.verdict for cell in self.cells)
        return {verdict: counted[verdict] for verdict in VERDICTS}


def matrix(encoders: Sequence[str], decoders: Sequence[str], jobs: int) -> Matrix:
    """Pair the encoders and decoders that match any of the patterns, in `jobs` processes. Show progress on stderr.

    Raises UsageError for a pattern that nothing matches.
    """
    found = {pattern: _names(pattern) for pattern in encoders}
    every = columns(REGISTERED)
    chosen = {pattern: [name for name in every if matches(name, pattern)] for pattern in decoders}
    for pattern, names in found.items():
        if not names:
            raise UsageError(f"no encoder is named {pattern!r}; a pattern has stars, in quotes: 'timm/*resnet*'")
    for pattern, names in chosen.items():
        if not names:
            raise UsageError(f"no decoder is named {pattern!r}; there are {', '.join(every)}")
    parts = [_encoder(name) for name in dict.fromkeys(chain.from_iterable(found.values()))]
    columned = tuple(dict.fromkeys(chain.from_iterable(chosen.values())))
    return Matrix(tuple(map(part_name, parts)), columned, tuple(_cells(parts, columned, jobs)))


def _names(pattern: str) -> list[str]:
    """The encoders that are known by name and match; or the very one, of a source whose names are not known here."""
    named = [name for name, part in PARTS.items() if issubclass(part, Probed) and not name.endswith("/")]
    known = [*(f"timm/{name}" for name in catalogued()), *named]
    found = [name for name in known if matches(name, pattern)]
    source = f"{pattern.partition('/')[0]}/"
    is_one = not set(pattern) & set("*?[") and source in REGISTERED and issubclass(REGISTERED[source], Probed)
    return found or ([pattern] if is_one else [])


def _encoder(name: str) -> Probed:
    source, _, rest = name.partition("/")
    part = REGISTERED[name] if name in REGISTERED else REGISTERED[f"{source}/"]
    found = part(rest)  # type: ignore[call-arg]
    assert isinstance(found, Probed)
    return found


def _cells(encoders: Sequence[Probed], decoders: tuple[str, ...], jobs: int) -> Iterator[Cell]:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    rows: dict[Probed, tuple[Cell, ...]] = {}
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        groups = alike(shown.track(encoders, description="encoders described"), describe)
        work = [(group[0], decoders) for group in groups]
        for group, cells in shown.track(
            zip(groups, _worked_out(work, jobs), strict=True), total=len(groups), description="kinds of encoders paired"
        ):
            rows |= {encoder: tuple(of(encoder, cell) for cell in cells) for encoder in group}
    for encoder in encoders:
        yield from rows[encoder]


def _worked_out(work: Sequence[tuple[Probed, tuple[str, ...]]], jobs: int) -> Iterator[tuple[Cell, ...]]:
    if jobs == 1 or len(work) < WORTH_PROCESSES:
        yield from map(_row, work)
        return
    # Ctrl-C reaches all processes of a terminal. This one ends the others, which have nothing to say of it.
    with interrupts_kept_from_others():
        pool = multiprocessing.get_context("spawn").Pool(min(jobs, len(work)), ignore_interrupts)
    with pool:
        yield from pool.imap(_row, work, chunksize=8)


def _row(work: tuple[Probed, tuple[str, ...]]) -> tuple[Cell, ...]:
    encoder, decoders = work
    return row(encoder, {name: REGISTERED[name] for name in decoders}, describe)
