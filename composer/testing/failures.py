"""Errors of the contract tests, and the text of their messages."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

from composer.parts.rules import RejectionError


class ContractViolation(AssertionError):
    """A part breaks a law. `law` is its name; the text has the input, what was expected and what was returned."""

    def __init__(self, law: str, text: str) -> None:
        super().__init__(text)
        self.law = law


class ContractUncheckable(Exception):
    """A part cannot be checked: its contract raises, it accepts nothing, or its fields or module cannot be made."""


class SkippedLawWarning(UserWarning):
    """A law was not checked, because no input was found to check it with."""


class LawError(Exception):
    """One run of a module breaks a law: what is wrong, and lines with what was expected and what was returned."""

    def __init__(self, what: str, expected: str = "", got: str = "") -> None:
        super().__init__(what)
        self.details = [f"  expected  {expected}", f"  got       {got}"] if expected else []


def format_shapes(shapes: Iterable[Sequence[int]]) -> str:
    """Return shapes as `1 × 64 × 8 × 8, 1 × 64`."""
    return ", ".join(" × ".join(map(str, shape)) or "a single number" for shape in shapes) or "nothing"


def format_error(error: BaseException) -> str:
    """Return an exception on one line."""
    if isinstance(error, RejectionError):
        rejection = error.rejection
        return f"a rejection: it {rejection.expected}{f' (got {rejection.got})' if rejection.got else ''}"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def locate_error(error: BaseException) -> str:
    """Return the last line of a traceback in the current folder, as `necks.py:6, in forward`; empty if none is."""
    here = Path.cwd()
    lines = [
        f"{Path(frame.filename).relative_to(here)}:{frame.lineno}, in {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(here) and "site-packages" not in frame.filename
    ]
    return lines[-1] if lines else ""
