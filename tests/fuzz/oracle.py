"""The oracle: for any text, `read` and `infer` end with a graph or a SpecError, in time and without side effects."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import timm  # noqa: F401, before events are recorded: its import starts programs
import torch  # noqa: F401

import composer
from composer.errors import SpecError, make_printable
from composer.graph import Graph
from tests.fuzz.audit import record_audit_events

T = TypeVar("T")

MAX_SECONDS = 20.0
"""CPU seconds to read a text and infer its graph; nearly all of them go into the probe of a network."""

MAX_WALL_SECONDS = 600
"""Seconds after which a text is stopped, on a busy machine too."""


class WrongAnswerError(AssertionError):
    """A text for which a law does not hold."""

    def __init__(self, law: str, details: str) -> None:
        super().__init__(f"{law}: {details}")


def evaluate_text(text: str, *folders: str) -> tuple[str, ...] | None:
    """Return the codes of the problems of a text, or None if it is valid.

    composer may write to `folders`. Raises WrongAnswerError if a law does not hold.
    """
    with record_audit_events(*folders) as opened, _limit_seconds():
        try:
            return _evaluate_unrecorded(text)
        finally:
            if opened:
                raise WrongAnswerError("nothing is opened or fetched", "; ".join(opened[:4]))


def _evaluate_unrecorded(text: str) -> tuple[str, ...] | None:
    begun = time.process_time()
    graph = _call_checked("read", composer.reads, text)
    typed = graph if isinstance(graph, SpecError) else _call_checked("infer", composer.infer, graph)
    seconds = time.process_time() - begun
    if seconds > MAX_SECONDS:
        raise WrongAnswerError("read and infer are bounded in time", f"they took {seconds:.1f} s")
    if not isinstance(graph, SpecError):
        _check_round_trip(graph)
    return tuple(sorted({problem.code for problem in typed.problems})) if isinstance(typed, SpecError) else None


@contextmanager
def _limit_seconds() -> Iterator[None]:
    def stop(_signal: int, _frame: Any) -> None:
        raise WrongAnswerError("no text hangs", f"no answer after {MAX_WALL_SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(MAX_WALL_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _call_checked(law: str, function: Callable[..., T], *arguments: Any) -> T | SpecError:
    """Return the result of a function or its SpecError, whose problems are checked."""
    try:
        return function(*arguments)
    except SpecError as error:
        if not error.problems:
            raise WrongAnswerError("a SpecError has problems", law) from error
        for problem in error.problems:
            is_shown = make_printable(problem.message) in str(error)
            if not (problem.code and problem.message.strip() and problem.place.line and is_shown):
                raise WrongAnswerError("a problem has a place and a message", repr(problem)) from error
        return error
    except WrongAnswerError:
        raise
    except Exception as error:
        raise _build_wrong_answer(law, error) from error


def _build_wrong_answer(law: str, error: Exception) -> WrongAnswerError:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "composer" in frame.filename]
    place = f" in {frames[-1].name}" if frames else ""
    details = f"{type(error).__name__}{place}: {' '.join(str(error).split())[:300]}"
    return WrongAnswerError(f"{law} raises nothing but a SpecError", details)


def _check_round_trip(graph: Graph) -> None:
    try:
        text = composer.write(graph)
        same = composer.reads(text)
        again = composer.write(same)
    except Exception as error:
        raise _build_wrong_answer("write", error) from error
    if same != graph or composer.digest(same) != composer.digest(graph):
        raise WrongAnswerError("a written graph is read equal", text)
    if again != text:
        raise WrongAnswerError("an equal graph is written alike", text)
