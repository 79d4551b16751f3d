"""Errors of the contract tests, and the text of their messages."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from composer.parts.rules import RejectionError

if TYPE_CHECKING:
    from torch import Tensor


class ContractViolation(AssertionError):
    """A part breaks a law. `law` is its name; the text has the input, what was expected and what was returned."""

    def __init__(self, law: str, text: str) -> None:
        super().__init__(text)
        self.law = law


class ContractUncheckable(Exception):
    """A part that cannot be checked: its contract raises, it accepts nothing, or its module cannot be built."""


class SkippedLawWarning(UserWarning):
    """A law was not checked, because no input was found to check it with."""


class LawError(Exception):
    """One run of a module breaks a law: what is wrong, and a table with details."""

    def __init__(self, what: str, table: str = "") -> None:
        super().__init__(what)
        self.table = table


def format_shape_table(expected: Sequence[tuple[int, ...]], outputs: Sequence[Tensor]) -> str:
    """Return a table of expected and actual shapes, one row per tensor, with an arrow where they differ."""
    rows = [("expected", "got")]
    shapes = [tuple(x.shape) for x in outputs]
    for left, right in zip_longest(expected, shapes):
        texts = ["nothing" if shape is None else format_shape(shape) for shape in (left, right)]
        rows.append((texts[0], texts[1] if left == right else f"{texts[1]}  ←"))
    return _format_table(rows)


def format_difference(first: tuple[str, Sequence[Tensor]], second: tuple[str, Sequence[Tensor]]) -> str:
    """Return where two labelled runs differ most, with both values; or their shapes, where those differ."""
    for index, (x, y) in enumerate(zip(first[1], second[1], strict=False)):
        if x.shape == y.shape and not x.equal(y):
            gap = (x.double() - y.double()).abs().nan_to_num(float("inf"))
            place = tuple(int(i) for i in (gap == gap.max()).nonzero()[0])
            rows = [(first[0], f"{float(x[place]):.6g}"), (second[0], f"{float(y[place]):.6g}")]
            return f"  feature {index}, at {place}:\n{_format_table(rows)}"
    return _format_table([(label, format_shapes(outputs)) for label, outputs in (first, second)])


def _format_table(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(left) for left, _ in rows)
    return "\n".join(f"  {left:<{width}}  {right}" for left, right in rows)


def format_shapes(outputs: Sequence[Tensor]) -> str:
    """Return the shapes of tensors, separated by commas."""
    return ", ".join(format_shape(tuple(x.shape)) for x in outputs)


def format_shape(shape: tuple[int, ...]) -> str:
    """Return a shape as `1 × 64 × 8 × 8`."""
    return " × ".join(map(str, shape)) or "a single number"


def format_error(error: BaseException) -> str:
    """Return an exception on one line."""
    if isinstance(error, RejectionError):
        refusal = error.refusal
        return f"a rejection: it {refusal.expected}{f' (got {refusal.got})' if refusal.got else ''}"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


_LIBRARY_PACKAGES = {
    *("composer", "torch", "hypothesis", "attr", "attrs", "pytest", "_pytest", "pluggy"),
    *sys.stdlib_module_names,
}


def locate_error(error: BaseException) -> str:
    """Return the last line of the user's code in a traceback, as `necks.py:6, in forward`; empty if there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_format_path(error.filename)}:{error.lineno}"
    lines = [
        f"{_format_path(frame.f_code.co_filename)}:{line}, in {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in _LIBRARY_PACKAGES
    ]
    return lines[-1] if lines else ""


def _format_path(file: str) -> str:
    here = Path.cwd()
    return str(Path(file).relative_to(here)) if Path(file).is_relative_to(here) else file
