"""`python -m composer.testing soak --minutes N`: texts of every kind, and what composer makes of them.

Whatever a text says, reading it and inferring its graph end with a graph or a SpecError; what is accepted is written
and read equal, builds, and gives what was inferred. A worker that dies or hangs is a finding with its text.
"""

from __future__ import annotations

import argparse
import secrets
import signal
from pathlib import Path

from rich.console import Console

from composer.layouts import format_count
from tests.fuzz.soak import Soak
from tests.fuzz.tally import Stats, load_stats

MAX_JOBS = 64


def main(arguments: list[str] | None = None) -> int:
    """Run a soak and show its figures. Gives 1 where anything was found, and 2 where nothing could be tried."""
    given = _build_soak_parser().parse_args(arguments)
    state = given.resume or given.folder / "state.json"
    console = Console()
    try:
        tally = _load_or_create_stats(given, state)
    except (OSError, ValueError) as error:
        console.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends as with Ctrl-C
    try:
        Soak(tally, given.folder, state, given.jobs, given.limit).run(given.minutes)
    finally:
        signal.signal(signal.SIGTERM, before)
    if not tally.texts:
        console.print("nothing was tried: it ended before a text was answered", markup=False, highlight=False)
        return 2
    console.print(tally.build_table())
    console.print(f"go on with: python -m composer.testing soak --resume {state}", markup=False, highlight=False)
    if tally.found:
        console.print(f"{format_count(len(tally.found), 'finding')} in {given.folder}", markup=False, highlight=False)
    return 1 if tally.found else 0


def _load_or_create_stats(given: argparse.Namespace, state: Path) -> Stats:
    """The tally of a soak that is gone on with, or a new one; and its folder. Nothing of another soak is written over.

    Raises ValueError and OSError where that cannot be.
    """
    if given.resume is None and state.exists() and load_stats(state).texts:
        raise ValueError(f"{state} is the state of a soak; go on with it, --resume {state}, or give another --folder")
    tally = load_stats(state) if given.resume is not None and state.exists() else Stats(_choose_seed(given.seed))
    if given.seed is not None and given.seed != tally.seed:
        raise ValueError(f"{state} is of seed {tally.seed}; leave --seed out")
    for folder in (given.folder, state.parent):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{folder} cannot be a folder (got {error.strerror})") from error
    tally.save(state)  # so that it is known now whether it can be written
    return tally


def _build_soak_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m composer.testing", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    soak = commands.add_parser("soak", help="try texts until the time is over")
    soak.add_argument("--minutes", type=_parse_positive, default=10.0, metavar="N", help="how long (10)")
    soak.add_argument("-j", "--jobs", type=_parse_job_count, default=1, metavar="N", help="processes (1)")
    soak.add_argument(
        "--seed",
        type=_parse_integer,
        metavar="N",
        help="draws the same texts again; drawn itself where it is not given",
    )
    soak.add_argument("--resume", type=Path, metavar="FILE", help="the state: gone on with where it is there")
    soak.add_argument("--folder", type=Path, default=Path("soak"), help="where findings are written (soak)")
    soak.add_argument(
        "--limit", type=_parse_positive, default=60.0, metavar="SECONDS", help="of a core, for a text (60)"
    )
    return parser


def _choose_seed(given: int | None) -> int:
    return secrets.randbelow(2**32) if given is None else given


def _parse_positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"a number above 0 is needed (got {text})")
    return number


def _parse_job_count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_JOBS:
        raise argparse.ArgumentTypeError(f"a whole number from 1 to {MAX_JOBS} is needed (got {text})")
    return int(text)


def _parse_integer(text: str) -> int:
    if not text.removeprefix("-").isdecimal():
        raise argparse.ArgumentTypeError(f"a whole number is needed (got {text})")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
