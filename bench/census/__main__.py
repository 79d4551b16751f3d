"""`python -m bench.census`: `census` measures the networks of the installed timm and writes the catalogue,
`verify` holds it to them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import timm
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.census.census import CPU_NETWORKS, format_catalogue, measure_worker
from bench.census.holding import verify_network
from composer.adapters.timm.catalogue import CATALOGUE
from composer.files import write_atomically

T = TypeVar("T")


def main(arguments: list[str] | None = None) -> int:
    """Measure what is not measured yet, then write the catalogue whole; stopped, it goes on where it was. Or hold it to
    the networks, and tell which are not as it says.
    """
    parser = argparse.ArgumentParser(prog="python -m bench.census", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    census = commands.add_parser("census", help="measure every network, and write the catalogue")
    census.add_argument("-o", "--output", type=Path, default=CATALOGUE, help="the file of the catalogue")
    verify = commands.add_parser("verify", help="run every network, and hold it to what the catalogue says")
    for command in (census, verify):
        command.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1, help="how many processes")
        command.add_argument("--only", default="*", metavar="PATTERN", help="the networks, for a trial")
    given = parser.parse_args(arguments)
    names = timm.list_models(given.only)
    return _run_census(given.output, given.jobs, names) if given.command == "census" else _run_verify(given.jobs, names)


def _sort_quick_first(names: Iterable[str]) -> list[str]:
    """What runs on the CPU takes minutes: last, so that all else is safe by then."""
    return sorted(names, key=lambda name: name.startswith(CPU_NETWORKS))


def _run_verify(jobs: int, names: list[str]) -> int:
    found = list(_iter_results(verify_network, _sort_quick_first(names), jobs, len(names)))
    wrong = {one.name: one.wrong for one in found if one.wrong}
    alone = {one.name: one.alone for one in found if one.alone and not one.wrong}
    sizes = sum(len(one.sizes) for one in found)
    sys.stdout.write(
        f"timm {timm.__version__}: {len(found) - len(wrong)} of {len(found)} networks give what is said of them, "
        f"at {sizes} sizes in all; {len(alone)} cannot be made for every other size, {len(wrong)} are not as said\n"
    )
    sys.stdout.writelines(f"  {name}: {why}\n" for name, why in (alone | wrong).items())
    return 1 if wrong else 0


def _run_census(output: Path, jobs: int, names: list[str]) -> int:
    unfinished = output.with_suffix(".partial")
    found = _read_partial_results(unfinished)
    left = _sort_quick_first(name for name in names if name not in found)
    with unfinished.open("a", encoding="utf-8") as file:
        for name, result in _iter_results(measure_worker, left, jobs, len(names)):
            found[name] = result
            file.write(json.dumps({"timm": timm.__version__, "name": name, **result}) + "\n")
            file.flush()
    catalogue = format_catalogue(timm.__version__, {name: found[name].get("entry") for name in names})
    write_atomically(output, lambda partial: partial.write_text(catalogue, encoding="utf-8"))
    unfinished.unlink()
    untold = {name: found[name]["why"] for name in names if "why" in found[name]}
    sys.stdout.write(f"{output}: {len(names) - len(untold)} of {len(names)} networks of timm {timm.__version__}\n")
    sys.stdout.writelines(f"  {name} must be asked itself: {why}\n" for name, why in untold.items())
    return 0


def _read_partial_results(unfinished: Path) -> dict[str, Any]:
    """What a run that was stopped has measured of this timm. A line that was not finished is no line."""
    if not unfinished.exists():
        return {}
    lines = [json.loads(line) for line in unfinished.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return {line["name"]: line for line in lines if line["timm"] == timm.__version__}


def _iter_results(asked: Callable[[str], T], names: list[str], jobs: int, total: int) -> Iterator[T]:
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with multiprocessing.get_context("spawn").Pool(jobs) as pool, Progress(*columns) as progress:
        task = progress.add_task("networks", total=total, completed=total - len(names))
        for result in pool.imap_unordered(asked, names):
            progress.advance(task)
            yield result


if __name__ == "__main__":
    raise SystemExit(main())
