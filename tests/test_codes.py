"""`explain`: every error code of the package is explained, and no other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import composer
from composer.cli.list import CODES
from composer.cli.main import main

TREES = [ast.parse(file.read_text(encoding="utf-8")) for file in sorted(Path(composer.__file__).parent.rglob("*.py"))]


class Signature:
    """The parameters of a function or the fields of a class that has a `code`."""

    def __init__(self, names: list[str], required: list[str], keyword_only: list[str]) -> None:
        self.names, self.required, self.keyword_only = names, required, keyword_only

    def find_code(self, call: ast.Call) -> ast.expr | None:
        """Return the argument of a call that is the code; None where it has none, or is a call of something else."""
        arguments = {keyword.arg: keyword.value for keyword in call.keywords}
        arguments |= dict(zip(self.names, call.args, strict=False))
        fits = len(call.args) <= len(self.names) and set(self.required) <= set(arguments)
        fits = fits and set(arguments) <= {*self.names, *self.keyword_only}
        return arguments.get("code") if fits else None


def signatures() -> dict[str, list[Signature]]:
    found: dict[str, list[Signature]] = {}
    for node in (node for tree in TREES for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef):
            names = [argument.arg for argument in node.args.args if argument.arg != "self"]
            keyword_only = [argument.arg for argument in node.args.kwonlyargs]
            required = names[: len(names) - len(node.args.defaults)]
        elif isinstance(node, ast.ClassDef):
            fields = [field for field in node.body if isinstance(field, ast.AnnAssign)]
            names, keyword_only = [], [field.target.id for field in fields]
            required = [field.target.id for field in fields if field.value is None]
        else:
            continue
        if "code" in [*names, *keyword_only]:
            found.setdefault(node.name, []).append(Signature(names, required, keyword_only))
    return found


def constants(value: ast.expr | None) -> set[str]:
    """The codes that an expression may be; nothing for a code that is passed on."""
    if isinstance(value, ast.IfExp):
        return constants(value.body) | constants(value.orelse)
    return {value.value} if isinstance(value, ast.Constant) else set()


def used() -> tuple[list[set[str]], set[str]]:
    """The codes of each call, several where its function is one of several; and all of them with those of defaults."""
    known, calls, every = signatures(), [], set()
    for node in (node for tree in TREES for node in ast.walk(tree)):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            values = [signature.find_code(node) for signature in known.get(name, [])]
            codes = [constants(value) for value in values if value is not None]
            every |= set().union(*codes)
            calls += [set().union(*codes)] if codes and all(codes) else []
        elif isinstance(node, ast.arguments):
            pairs = zip(reversed(node.args), reversed(node.defaults), strict=False)
            every |= set().union(*(constants(default) for argument, default in pairs if argument.arg == "code"))
    return calls, every


def test_every_code_is_explained():
    calls, _ = used()
    assert len(calls) > 150
    assert [codes for codes in calls if not codes & set(CODES)] == []


def test_no_other_code_is_explained():
    _, every = used()
    assert set(CODES) - every == set()
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
