"""`explain`: every error code of the package is explained, and no other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import composer
from composer.cli.list import read_codes
from composer.cli.main import main

CODES = read_codes()
TREES = [ast.parse(file.read_text(encoding="utf-8")) for file in sorted(Path(composer.__file__).parent.rglob("*.py"))]


REPORTING = ("diagnostics.add", "fail", "_report", "build_error", "_make_error")
"""Functions with a code as their first argument, and a message as their second."""


def constants(value: ast.expr | None) -> set[str]:
    """The codes that an expression may be; nothing for a code that is passed on."""
    if isinstance(value, ast.IfExp):
        return constants(value.body) | constants(value.orelse)
    return {value.value} if isinstance(value, ast.Constant) and isinstance(value.value, str) else set()


def codes_of(node: ast.AST) -> set[str]:
    """The codes that a call names, or that are defaults of a function."""
    if isinstance(node, ast.arguments):
        names = [argument.arg for argument in node.args][-len(node.defaults) :]
        pairs = [*zip(names, node.defaults, strict=False)]
        pairs += zip([argument.arg for argument in node.kwonlyargs], node.kw_defaults, strict=True)
        return set().union(*(constants(value) for name, value in pairs if name == "code"))
    if not isinstance(node, ast.Call):
        return set()
    values = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
    values += node.args[:1] if ast.unparse(node.func).endswith(REPORTING) and len(node.args) > 1 else []
    return set().union(*map(constants, values))


def test_every_code_is_explained_and_no_other():
    assert set().union(*(codes_of(node) for tree in TREES for node in ast.walk(tree))) == set(CODES)
    assert list(CODES) == sorted(CODES)


@pytest.mark.parametrize("code", CODES)
def test_an_explanation_has_a_meaning_an_example_and_a_fix(code):
    meaning, example, fix = CODES[code].split("\n")
    assert example.startswith("Example: ")
    assert fix.startswith("Fix: ")
    assert [line[-1] for line in (meaning, example, fix)] == ["."] * 3


def test_one_code(capsys):
    assert main(["explain", "layout"]) == 0
    assert capsys.readouterr() == (f"layout: {CODES['layout']}\n", "")


def test_all_codes(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:-2]] == list(CODES)


def test_an_unknown_code(capsys):
    assert main(["explain", "layuot"]) == 2
    assert capsys.readouterr() == ("", "there is no error code 'layuot'; did you mean layout?\n")
