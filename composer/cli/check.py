"""`check` and `import`: print the problems of specs or what they compute, and write specs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from difflib import unified_diff
from typing import Any

from attrs import asdict, frozen

from composer.cli.terminal import (
    UsageError,
    check_readable,
    check_writable,
    log,
    print_text,
    read_spec,
    write_output,
    write_text,
)
from composer.edits import fix_text
from composer.errors import Fix, Place, Problem, SpecError, make_printable
from composer.inference import TypedGraph, compute_symbolic_shape, infer
from composer.spec.reader import is_weights_file
from composer.spec.writer import digest, write
from composer.spec.yaml import read_text

SPEC_SUFFIXES = (".yaml", ".yml")


@frozen
class Report:
    """The result of checking one file: a typed graph or problems, and the exit code, 2 for an unreadable file."""

    file: str
    typed: TypedGraph | None = None
    problems: tuple[Problem, ...] = ()
    code: int = 0

    def __str__(self) -> str:
        """`specs/a.yaml: ok  head (b, 10, H, W); multiple of 32, at least 32, any shape`, or the problems."""
        if self.typed is None:
            return "\n".join(map(str, self.problems))
        ends = ", ".join(format_output(self.typed, end) for end in dict.fromkeys(self.typed.ends))
        warnings = (problem.format("warning") for problem in self.typed.find_bands_warnings())
        return "\n".join([f"{make_printable(self.file)}: ok  {ends}; {self.typed.sizes}", *warnings])

    def as_data(self) -> dict[str, Any]:
        """Return the same as plain data, for JSON."""
        typed = self.typed
        found = typed.find_bands_warnings() if typed else []
        ends = {end: compute_symbolic_shape(typed, end) for end in typed.ends} if typed else {}
        return {
            "file": self.file,
            "ok": typed is not None,
            "digest": digest(typed.graph) if typed else None,
            "sizes": asdict(typed.sizes) if typed else None,
            "outputs": {end: ends[end] for end in typed.graph.outputs} if typed else {},
            "auxiliary": {label: ends[end] for label, end in typed.graph.auxiliary} if typed else {},
            "problems": list(map(_dump_problem, self.problems)),
            **({"warnings": [_dump_problem(warning) for warning in found]} if found else {}),
        }


def _dump_problem(problem: Problem) -> dict[str, Any]:
    """Return a problem for programs, with edits such as `{"edit": "SetField", "node": "decoder", …}`."""
    fields = asdict(problem, recurse=False) | {"fix": None if problem.fix is None else str(problem.fix)}
    edits = problem.fix.edits if isinstance(problem.fix, Fix) else ()
    listed = [{"edit": type(edit).__name__, **asdict(edit)} for edit in edits]
    return {**asdict(fields.pop("place")), **fields, "edits": listed}


def format_output(typed: TypedGraph, end: str) -> str:
    """`head (b, 10, H, W)`."""
    shape = compute_symbolic_shape(typed, end)
    shapes = shape if end in typed.embeddings else (shape,)
    listed = " ".join(f"({', '.join(map(str, axes))})" for axes in shapes if isinstance(axes, tuple))
    return f"{end} {listed}{' of the padded image' if end in typed.embeddings else ''}"


def check(files: Sequence[str], form: str, *, fix: bool = False, diff: bool = False) -> int:
    """Check every file and print the reports, in `form` text or json; with `fix` or `diff` fix the files instead.

    Return 2 for unreadable files, 1 for problems.
    """
    if fix or diff:
        return max(fix_file(file, write=fix) for file in files)
    reports = []
    for report in map(build_report, files):
        reports.append(report)
        if form == "text":
            print_text(str(report)) if report.code < 2 else log(report.problems[0].message)
    if form == "json":
        print_text(json.dumps([report.as_data() for report in reports], indent=2, ensure_ascii=False))
    return max(report.code for report in reports)


def build_report(file: str) -> Report:
    """Check one file."""
    try:
        return Report(file, infer(read_spec(file)))
    except UsageError as error:
        return Report(file, problems=(Problem(code="file", message=str(error), place=Place(file=file)),), code=2)
    except SpecError as error:
        return Report(file, problems=error.problems, code=1)


def fix_file(file: str, *, write: bool) -> int:
    """Apply the fixes that `check` prints, in the file or as a diff on stdout. Returns the exit code.

    Comments and layout stay. Problems that are left are printed, and the exit code is then 1; fixes that could not be
    applied go to stderr, to be made by hand, as does the reason why a file cannot be read or written.
    """
    try:
        check_readable(file)
        if is_weights_file(file):
            raise UsageError(f"{file}: this is a weights file; give the YAML spec.")
        old = read_text(file)
        path = check_writable(file, SPEC_SUFFIXES) if write else None
    except UsageError as error:
        log(str(error))
        return 2
    fixed = fix_text(old, file)
    if path is None:
        before, after = (text.splitlines(keepends=True) for text in (old, fixed.text))
        sys.stdout.writelines(unified_diff(before, after, file, f"{file} (fixed)"))
    elif fixed.text != old:
        write_output(file, path, lambda partial: partial.write_text(fixed.text, encoding="utf-8"))
        print_text("\n".join(f"{make_printable(file)}: {make_printable(line)}" for line in fixed.applied))
    for problem in fixed.problems:
        print_text(str(problem))
    for line in fixed.skipped:
        log(f"{file}: not applied, so edit the spec by hand: {line}")
    if not fixed.problems and fixed.text == old:
        log(f"{file}: ok, nothing to fix")
    return 1 if fixed.problems else 0


def import_terratorch(config: str, out: str | None) -> None:
    """Write the spec of a TerraTorch config to `out` or to stdout, and to stderr notes on what the spec leaves out.

    Raises SpecError for a config that cannot be converted, and UsageError for files that cannot be read or written.
    """
    from composer.terratorch.configs import read_config

    check_readable(config)
    path = None if out is None else check_writable(out, SPEC_SUFFIXES, [("config", config)])
    translation = read_config(config)
    for note in translation.notes:
        log(note.format("note"))
    write_text(write(translation.graph), out, path)


def import_smp(folder: str, out: str | None, save_to: str | None) -> None:
    """Write the spec of a folder of smp's `save_pretrained` to `out` or to stdout, and its weights to `save_to`.

    Raises SpecError for a folder without such a model or its weights, and UsageError for files that cannot be written.
    """
    from composer.adapters.smp.translation import read_folder

    weights = os.path.join(folder, "model.safetensors")
    path = None if out is None else check_writable(out, SPEC_SUFFIXES)
    target = None if save_to is None else check_writable(save_to, (".safetensors",), [("weights", weights)])
    graph = read_folder(folder)
    try:
        typed = infer(graph)
    except SpecError as error:
        if target is not None or any(problem.code != "install" for problem in error.problems):
            raise
        log("note: a library is missing, so the spec was not checked.")
    if target is not None:
        from composer.cli.show import build_model
        from composer.weights import save

        model, origin = build_model(typed, folder, weights=weights)
        write_output(str(save_to), target, lambda partial: save(model, partial))
        log(f"{origin}\nwrote {save_to}")
    write_text(write(graph), out, path)
