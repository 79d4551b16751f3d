"""`python -m composer.adapters.timm census`: measure the networks of the installed timm, and write the catalogue."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from composer.adapters.timm.census import ON_THE_CPU, told
from composer.catalogue import CATALOGUE, written


def main(arguments: list[str] | None = None) -> int:
    """Measure what is not measured yet, then write the catalogue whole. Stopped, it goes on where it was."""
    parser = argparse.ArgumentParser(prog="python -m composer.adapters.timm", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    census = commands.add_parser("census", help="measure every network, and write the catalogue")
    census.add_argument("-o", "--output", type=Path, default=CATALOGUE, help="the file of the catalogue")
    census.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1, help="how many processes measure")
    census.add_argument("--only", default="*", metavar="PATTERN", help="the networks to measure, for a trial")
    given = parser.parse_args(arguments)
    return _census(given.output, given.jobs, timm.list_models(given.only))


def _census(output: Path, jobs: int, names: list[str]) -> int:
    unfinished = output.with_suffix(".partial")
    found = _so_far(unfinished)
    # What runs on the CPU takes minutes: last, so that all else is safe by then.
    left = sorted((name for name in names if name not in found), key=lambda name: name.startswith(ON_THE_CPU))
    with unfinished.open("a", encoding="utf-8") as file:
        for name, result in _all(left, jobs, len(names)):
            found[name] = result
            file.write(json.dumps({"timm": timm.__version__, "name": name, **result}) + "\n")
            file.flush()
    whole = output.with_suffix(".whole")
    whole.write_text(written(timm.__version__, {name: found[name].get("entry") for name in names}), encoding="utf-8")
    whole.replace(output)
    unfinished.unlink()
    untold = {name: found[name]["why"] for name in names if "why" in found[name]}
    sys.stdout.write(f"{output}: {len(names) - len(untold)} of {len(names)} networks of timm {timm.__version__}\n")
    sys.stdout.writelines(f"  {name} must be asked itself: {why}\n" for name, why in untold.items())
    return 0


def _so_far(unfinished: Path) -> dict[str, Any]:
    """What a run that was stopped has measured of this timm. A line that was not finished is no line."""
    if not unfinished.exists():
        return {}
    lines = [json.loads(line) for line in unfinished.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return {line["name"]: line for line in lines if line["timm"] == timm.__version__}


def _all(names: list[str], jobs: int, total: int) -> Iterator[tuple[str, dict[str, Any]]]:
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with multiprocessing.get_context("spawn").Pool(jobs) as pool, Progress(*columns) as progress:
        task = progress.add_task("networks", total=total, completed=total - len(names))
        for name, result in pool.imap_unordered(told, names):
            progress.advance(task)
            yield name, result


if __name__ == "__main__":
    raise SystemExit(main())
