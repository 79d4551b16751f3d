"""What holds for all benchmarks: one thread, an own cache of encoders, pairs, and a table of ratios in the end."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

ROWS: list[tuple[str, str]] = []
LONG = 0.1
"""Seconds that a pair takes next to which a collection of garbage is nothing."""

OPTIONAL = ("terratorch", "transformers", "mmseg")
SPECS = Path(__file__).parent.parent / "specs"


class Ratio(NamedTuple):
    """How many times as long one thing takes as another: the median over pairs, and where 95 % of resamplings lie."""

    median: float
    low: float
    high: float
    one: float
    other: float

    def __str__(self) -> str:
        times = f"{1e3 * self.one:.3f} ms against {1e3 * self.other:.3f} ms"
        return f"{self.median:.3f}  ({self.low:.3f} to {self.high:.3f})   {times}"


def compare(one: Callable[[], Any], other: Callable[[], Any], pairs: int) -> Ratio:
    """Time two functions in pairs, one right after the other and in random order.

    What is counted is the thread's own time on the processor, so that who else runs on the machine matters little.
    """
    one(), other(), one(), other()
    order = random.Random(0)
    times: list[tuple[float, float]] = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(pairs):
            if order.random() < 0.5:
                first = _timed(one)
                times.append((first, _timed(other)))
            else:
                second = _timed(other)
                times.append((_timed(one), second))
            if sum(times[-1]) > LONG:
                # Models in circles hold their memory until they are collected; the next pair finds it as this one did.
                gc.collect()
    finally:
        gc.enable()
    ratios = [mine / theirs for mine, theirs in times]
    medians = sorted(statistics.median(order.choices(ratios, k=pairs)) for _ in range(1000))
    mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    return Ratio(statistics.median(ratios), medians[25], medians[974], mine, theirs)


def _timed(function: Callable[[], Any]) -> float:
    """Seconds that a function takes. What it gives is let go afterwards: not everything is freed when it goes."""
    start = time.thread_time()
    result = function()
    took = time.thread_time() - start
    del result
    return took


@pytest.fixture
def paired(request: pytest.FixtureRequest) -> Callable[..., Ratio]:
    """Compare two functions, and put the ratio into the table. With --benchmark-disable, only see that they run."""
    disabled = request.config.getoption("benchmark_disable")

    def measure(label: str, one: Callable[[], Any], other: Callable[[], Any], pairs: int) -> Ratio:
        ratio = compare(one, other, 2 if disabled else pairs)
        ROWS.append((label, str(ratio)))
        return ratio

    return measure


@pytest.fixture
def note() -> Callable[[str, str], None]:
    """Put a line of its own into the table."""
    return lambda label, said: ROWS.append((label, said))


@pytest.fixture(scope="session")
def specs() -> dict[str, str]:
    """The text of every spec, by name, but of those whose libraries are of extras of their own."""
    texts = {file.stem: file.read_text(encoding="utf-8") for file in sorted(SPECS.glob("*.yaml"))}
    return {name: text for name, text in texts.items() if not any(f"{source}/" in text for source in OPTIONAL)}


def pytest_configure(config: pytest.Config) -> None:
    """One thread, memory that stays, and a folder for what is found out about networks."""
    torch.set_num_threads(1)
    _keep_memory()
    os.environ["COMPOSER_CACHE"] = tempfile.mkdtemp(prefix="composer-bench-")


def _keep_memory() -> None:
    """Let the process keep what is freed, where its C library can be told so.

    A model without reference cycles is freed at once, its pages go back to the system, and the next one pays for
    having them mapped again; one with cycles leaves holes that keep them. Neither is a property of how it was made.
    """
    with suppress(AttributeError, OSError):
        for parameter, value in ((-1, 2**31 - 1), (-3, 2**25)):  # glibc's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD
            ctypes.CDLL(None).mallopt(parameter, value)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove that folder."""
    shutil.rmtree(os.environ["COMPOSER_CACHE"], ignore_errors=True)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table: medians of paired ratios with their intervals."""
    terminalreporter.section(f"ratios, by time on the processor, with torch {torch.__version__}")
    width = max((len(label) for label, _ in ROWS), default=0)
    for label, said in ROWS:
        terminalreporter.write_line(f"{label:<{width}}  {said}")
