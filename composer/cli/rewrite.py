"""Rewrite specs: `check --fix`, `check --diff` and `import`."""

from __future__ import annotations

import sys
from difflib import unified_diff

from composer.cli.terminal import (
    check_readable,
    check_writable,
    log,
    print_text,
    read_spec_text,
    write_output_file,
)
from composer.errors import Fix, Problem, SpecError, make_printable

SPEC_SUFFIXES = (".yaml", ".yml")

MAX_ROUNDS = 10
"""The number of times that a spec is fixed and read again: a misspelled name hides what is wrong behind it."""


def fix_text(text: str, name: str) -> tuple[str, list[str]]:
    """Return a spec with the fixes of its problems applied, as far as they are edits, and a line for each fix."""
    from composer.spec.edits import EditError, apply_edits

    applied: list[str] = []
    problems = _find_problems(text, name)
    for _ in range(MAX_ROUNDS):
        fixes = {
            (problem.code, problem.place.path): problem.repair
            for problem in problems
            if isinstance(problem.repair, Fix)
        }
        if not fixes:
            break
        try:
            fixed = apply_edits(text, [edit for fix in fixes.values() for edit in fix.edits])
        except EditError as error:
            applied += [f"{path}: not applied: {fix} ({error})" for (_, path), fix in fixes.items()]
            break
        after = _find_problems(fixed, name)
        if any((problem.code, problem.place.path) in fixes or problem.code == "yaml" for problem in after):
            applied += [f"{path}: not applied: {fix} (it does not solve this)" for (_, path), fix in fixes.items()]
            break
        applied += [f"{path}: {fix}" for (_, path), fix in fixes.items()]
        text, problems = fixed, after
    return text, applied


def _find_problems(text: str, name: str) -> tuple[Problem, ...]:
    from composer.inference import infer
    from composer.spec import reads

    try:
        infer(reads(text, name=name))
    except SpecError as error:
        return error.problems
    return ()


def fix_file(file: str, *, write: bool) -> int:
    """Apply the fixes that `check` prints, in the file or as a diff on stdout. Returns the exit code.

    Comments and layout stay. Problems that no edit fixes are printed, and the exit code is then 1. Raises UsageError
    for a file that cannot be read or written.
    """
    old = read_spec_text(file)
    path = check_writable(file, SPEC_SUFFIXES) if write else None
    new, applied = fix_text(old, file)
    if path is not None and new != old:
        write_output_file(path, lambda partial: partial.write_text(new, encoding="utf-8"))
        print_text("\n".join(f"{make_printable(file)}: {line}" for line in applied))
    if path is None:
        lines = unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True), file, f"{file} (fixed)")
        sys.stdout.writelines(lines)
    left = _find_problems(new, file)
    for problem in left:
        print_text(str(problem))
    if not left and new == old:
        log(f"{file}: ok, nothing to fix")
    return 1 if left else 0


def import_terratorch(config: str, out: str | None) -> None:
    """Write the spec of a TerraTorch config to `out` or to stdout, and to stderr notes on what the spec leaves out.

    Raises SpecError for a config that cannot be converted, and UsageError for files that cannot be read or written.
    """
    from composer.spec import write
    from composer.terratorch.configs import read_config

    check_readable(config)
    path = None if out is None else check_writable(out, SPEC_SUFFIXES, [("config", config)])
    translation = read_config(config)
    for note in translation.notes:
        log(note.said("note"))
    spec = write(translation.graph)
    if path is None:
        sys.stdout.write(spec)
        return
    write_output_file(path, lambda partial: partial.write_text(spec, encoding="utf-8"))
    print_text(f"wrote {make_printable(str(out))}")
