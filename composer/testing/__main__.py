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

from composer.feature import counted
from composer.testing.soak import Soak
from composer.testing.tally import Tally, kept


def main(arguments: list[str] | None = None) -> int:
    """Run a soak and show its figures. Gives 1 where anything was found, and 2 for a state that cannot be read."""
    given = _parser().parse_args(arguments)
    state = given.resume or given.folder / "state.json"
    console = Console()
    try:
        tally = kept(state) if given.resume is not None and state.exists() else Tally(_seed(given.seed))
    except (OSError, ValueError) as error:
        console.print(f"error: {error}", markup=False, highlight=False)
        return 2
    if given.seed is not None and given.seed != tally.seed:
        console.print(f"error: {state} is of seed {tally.seed}; leave --seed out", markup=False, highlight=False)
        return 2
    given.folder.mkdir(parents=True, exist_ok=True)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends as with Ctrl-C
    try:
        Soak(tally, given.folder, state, given.jobs, given.limit).run(given.minutes)
    finally:
        signal.signal(signal.SIGTERM, before)
    console.print(tally.table())
    console.print(f"go on with: python -m composer.testing soak --resume {state}", markup=False, highlight=False)
    if tally.found:
        console.print(f"{counted(len(tally.found), 'finding')} in {given.folder}", markup=False, highlight=False)
    return 1 if tally.found else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m composer.testing", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    soak = commands.add_parser("soak", help="try texts until the time is over")
    soak.add_argument("--minutes", type=_positive, default=10.0, metavar="N", help="how long (10)")
    soak.add_argument("-j", "--jobs", type=int, choices=range(1, 65), default=1, metavar="N", help="processes (1)")
    soak.add_argument("--seed", type=int, help="draws the same texts again; drawn itself where it is not given")
    soak.add_argument("--resume", type=Path, metavar="FILE", help="the state: gone on with where it is there")
    soak.add_argument("--folder", type=Path, default=Path("soak"), help="where findings are written (soak)")
    soak.add_argument("--limit", type=_positive, default=60.0, metavar="SECONDS", help="of a core, for a text (60)")
    return parser


def _seed(given: int | None) -> int:
    return secrets.randbelow(2**32) if given is None else given


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"a number above 0 is needed (got {text})")
    return number


if __name__ == "__main__":
    raise SystemExit(main())
