"""Failures of laws, and their messages."""

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
    """A part does not keep a law. `law` is its name in `LAWS`; the text says before what, and what came."""

    def __init__(self, law: str, text: str) -> None:
        super().__init__(text)
        self.law = law


class ContractUncheckable(Exception):
    """A part that cannot be checked: its contract raises, it accepts nothing, or its module cannot be built.

    `option` and `value` are the option of `check_contract`, or of `composer_checks`, that helps, if one does.
    """

    def __init__(self, what: str, name: str = "", option: str = "", value: str = "") -> None:
        self.what, self.option, self.value = what, option, value
        self.part = name.partition("(")[0]
        super().__init__(f"{what}. Call check_contract({self.part}, {option}={value})" if option else what)

    @property
    def said_to_modules(self) -> str:
        """The text for a module whose parts pytest checks."""
        if not self.option:
            return self.what
        return f'{self.what}. Add to your module: composer_checks = {{{self.part}: {{"{self.option}": {self.value}}}}}'


class SkippedLawWarning(UserWarning):
    """A law that was not tried: of all that a part was tried with it refuses nothing, or nothing that is small."""


def format_failure(name: str, law: str, what: str, case: Any = None, *, beside: str = "") -> str:
    """The whole text of a failure."""
    lines = [f"{name} breaks the law '{law}': {what}."]
    if case is not None:
        lines.append(f"  fed  {case}")
    return "\n".join([*lines, *([beside] if beside else [])])


def compare_shapes(promised: Sequence[tuple[int, ...]], given: Sequence[Tensor] | str) -> str:
    """Shapes promised and shapes got, a line for each, and a mark at those that differ."""
    got = [given] if isinstance(given, str) else [format_tensor_shape(tuple(x.shape)) for x in given]
    wanted = [format_tensor_shape(one) for one in promised]
    width = max(map(len, ["promised", *wanted]))
    lines = [f"  {'promised':<{width}}  got"]
    for one, other in zip_longest(wanted, got, fillvalue="nothing"):
        lines.append(f"  {one:<{width}}  {other}{'' if one == other else '  ←'}")
    return "\n".join(lines)


def format_worst_difference(one: tuple[str, Sequence[Tensor]], other: tuple[str, Sequence[Tensor]]) -> str:
    """Where two runs differ most, and what each gives there; or their shapes, where these differ."""
    (name, given), (name_too, given_too) = one, other
    wide = max(len(name), len(name_too))
    for index, (x, y) in enumerate(zip(given, given_too, strict=False)):
        if x.shape == y.shape and not x.equal(y):
            apart = (x.double() - y.double()).abs().nan_to_num(float("inf"))
            place = tuple(int(i) for i in (apart == apart.max()).nonzero()[0])
            where = f"feature {index}, at {place}"
            values = [float(z[place]) for z in (x, y)]
            return f"  {where}:\n  {name:<{wide}}  {values[0]:.6g}\n  {name_too:<{wide}}  {values[1]:.6g}"
    rows = [
        f"  {label:<{wide}}  {', '.join(format_tensor_shape(tuple(x.shape)) for x in run)}"
        for label, run in (one, other)
    ]
    return "\n".join(rows)


def format_tensor_shape(sizes: tuple[int, ...]) -> str:
    """`1 × 64 × 8 × 8`, as shapes are written elsewhere."""
    return " × ".join(map(str, sizes)) or "a single number"


def format_error(error: BaseException) -> str:
    """An exception on one line."""
    if isinstance(error, RejectionError):
        refusal = error.refusal
        return f"a refusal: it {refusal.expected}{f' (got {refusal.got})' if refusal.got else ''}"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def locate_error(error: BaseException) -> str:
    """The last line of a user's own that an exception came through, `necks.py:6, in forward`; nothing without one."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_format_path(error.filename)}:{error.lineno}"
    own = [
        f"{_format_path(frame.f_code.co_filename)}:{line}, in {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in _LIBRARY_PACKAGES
    ]
    return own[-1] if own else ""


_LIBRARY_PACKAGES = {
    "composer",
    "torch",
    "hypothesis",
    "attr",
    "attrs",
    "pytest",
    "_pytest",
    "pluggy",
    *sys.stdlib_module_names,
}
"""Packages in which nobody looks for a mistake of his own."""


def _format_path(file: str) -> str:
    """A file as it is written from here, where it is here."""
    here = Path.cwd()
    return str(Path(file).relative_to(here)) if Path(file).is_relative_to(here) else file
