"""`check FILES…`: what each file says of itself, or all that is wrong with it. No torch here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from attrs import asdict, frozen

from composer.commands.shapes import compute_symbolic_shape, format_shape, to_shapes
from composer.commands.terminal import UsageError, log, print_text, read_spec
from composer.problem import Problem, SpecError, make_printable
from composer.typed import TypedGraph


@frozen
class Report:
    """What was found out about one file: a typed graph, or problems, or why it could not be read."""

    file: str
    typed: TypedGraph | None = None
    problems: tuple[Problem, ...] = ()
    unreadable: str | None = None

    @property
    def code(self) -> int:
        """The exit code that this file asks for."""
        return 2 if self.unreadable else 1 if self.problems else 0

    def __str__(self) -> str:
        """`specs/a.yaml: ok  head (b, 10, H, W); multiple of 32, at least 32, any shape`, or the problems."""
        if self.typed is None:
            return "\n".join(map(str, self.problems))
        ends = ", ".join(_format_end(self.typed, end) for end in dict.fromkeys(self.typed.ends))
        return f"{make_printable(self.file)}: ok  {ends}; {self.typed.sizes}"

    def as_data(self) -> dict[str, Any]:
        """The same for programs."""
        from composer import digest

        typed = self.typed
        problems = [_dump_problem(problem) for problem in self.problems]
        if self.unreadable:
            problems = [_dump_problem(Problem(code="file", message=self.unreadable)) | {"file": self.file}]
        return {
            "file": self.file,
            "ok": typed is not None,
            "digest": None if typed is None else digest(typed.graph),
            "sizes": None if typed is None else asdict(typed.sizes),
            "outputs": {}
            if typed is None
            else {end: compute_symbolic_shape(typed, end) for end in typed.graph.outputs},
            "auxiliary": {}
            if typed is None
            else {name: compute_symbolic_shape(typed, end) for name, end in typed.graph.auxiliary},
            "problems": problems,
        }


def _format_end(typed: TypedGraph, end: str) -> str:
    shapes = " ".join(map(format_shape, to_shapes(typed, end, compute_symbolic_shape(typed, end))))
    return f"{end} {shapes}{' of the padded image' if end in typed.embeddings else ''}"


def check(files: Sequence[str], form: str) -> int:
    """Report on every file, in `form` text or json. Returns the exit code: 2 where a file cannot be read."""
    reports = []
    for file in files:
        report = build_report(file)
        reports.append(report)
        if form == "text":
            (log if report.unreadable else print_text)(report.unreadable or str(report))
    if form == "json":
        print_text(json.dumps([report.as_data() for report in reports], indent=2, ensure_ascii=False))
    return max(report.code for report in reports)


def build_report(file: str) -> Report:
    """What there is to say about one file."""
    from composer import infer

    try:
        return Report(file, infer(read_spec(file)))
    except UsageError as error:
        return Report(file, unreadable=str(error))
    except SpecError as error:
        return Report(file, problems=error.problems)


def _dump_problem(problem: Problem) -> dict[str, Any]:
    place = problem.place
    return {
        "code": problem.code,
        "path": place.path,
        "file": place.file,
        "line": place.line,
        "column": place.column,
        "message": problem.message,
        "expected": problem.expected,
        "got": problem.got,
        "repair": problem.repair,
    }
