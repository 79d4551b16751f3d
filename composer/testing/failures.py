"""Errors of the contract tests, and the text of their messages."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer.parts.rules import RejectionError

if TYPE_CHECKING:
    from torch import Tensor


class ContractViolation(AssertionError):
    """A part breaks a law. `law` is its name; the text has the input, what was expected and what was returned."""

    def __init__(self, law: str, text: str) -> None:
        super().__init__(text)
        self.law = law


class ContractUncheckable(Exception):
    """A part that cannot be checked: its contract raises, it accepts nothing, or its module cannot be built.

    `option` and `value` are the option of `check_contract` and of `composer_checks` that helps, if one does.
    """

    def __init__(self, what: str, name: str = "", option: str = "", value: str = "") -> None:
        self.what, self.option, self.value = what, option, value
        self.part = name.partition("(")[0]
        super().__init__(f"{what}. Call check_contract({self.part}, {option}={value})" if option else what)

    @property
    def text_for_modules(self) -> str:
        """The text for a module that the pytest plugin checks."""
        if not self.option:
            return self.what
        return f'{self.what}. Add to your module: composer_checks = {{{self.part}: {{"{self.option}": {self.value}}}}}'


class SkippedLawWarning(UserWarning):
    """A law was not checked, because no input was found to check it with."""


def format_failure(name: str, law: str, what: str, case: Any = None, *, details: str = "") -> str:
    """Return the text of a violation: what is wrong, the input, and details such as shapes."""
    lines = [f"{name} breaks the law '{law}': {what}."]
    if case is not None:
        lines.append(f"  input  {case}")
    return "\n".join([*lines, *([details] if details else [])])


def compare_shapes(expected: Sequence[tuple[int, ...]], outputs: Sequence[Tensor]) -> str:
    """Return a table of expected and actual shapes, one row per tensor, with an arrow where they differ."""
    got = [format_tensor_shape(tuple(x.shape)) for x in outputs]
    wanted = [format_tensor_shape(shape) for shape in expected]
    width = max(map(len, ["expected", *wanted]))
    lines = [f"  {'expected':<{width}}  got"]
    for left, right in zip_longest(wanted, got, fillvalue="nothing"):
        lines.append(f"  {left:<{width}}  {right}{'' if left == right else '  ←'}")
    return "\n".join(lines)


def format_worst_difference(first: tuple[str, Sequence[Tensor]], second: tuple[str, Sequence[Tensor]]) -> str:
    """Return where two labelled runs differ most, with both values; or their shapes, where those differ."""
    (name, outputs), (other_name, other_outputs) = first, second
    width = max(len(name), len(other_name))
    for index, (x, y) in enumerate(zip(outputs, other_outputs, strict=False)):
        if x.shape == y.shape and not x.equal(y):
            gap = (x.double() - y.double()).abs().nan_to_num(float("inf"))
            place = tuple(int(i) for i in (gap == gap.max()).nonzero()[0])
            rows = [f"  {label:<{width}}  {float(z[place]):.6g}" for label, z in ((name, x), (other_name, y))]
            return "\n".join([f"  feature {index}, at {place}:", *rows])
    return "\n".join(
        f"  {label:<{width}}  {', '.join(format_tensor_shape(tuple(x.shape)) for x in run)}"
        for label, run in (first, second)
    )


def format_tensor_shape(sizes: tuple[int, ...]) -> str:
    """Return a shape as `1 × 64 × 8 × 8`."""
    return " × ".join(map(str, sizes)) or "a single number"


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
