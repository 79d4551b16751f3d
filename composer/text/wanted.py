"""Whether a value is what is wanted in its place; what to write where it is not. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from composer.problem import suggest
from composer.text.findings import Diagnostics
from composer.text.scalars import format_scalar, parse_scalar
from composer.text.tree import ScalarNode, SequenceNode, Tree, describe_value


class Schema(Protocol):
    """What a value has to be. `words` completes a sentence that begins with "expected"."""

    @property
    def words(self) -> str: ...  # noqa: D102

    def is_valid(self, tree: Tree) -> bool:
        """Whether the value is of this kind at first sight; its entries are looked at by `read`."""

    def read(self, tree: Any, path: str, findings: Diagnostics, /) -> Any:
        """The value for Python, of which `fits` is true. What is wrong inside is put down in `findings`."""


def parse_value(want: Schema, tree: Tree, path: str, findings: Diagnostics) -> Any:
    """The value of `tree` where it is as wanted. Otherwise None, and a problem in `findings`."""
    findings.mark(path, tree)
    if want.is_valid(tree):
        return want.read(tree, path, findings)
    got = describe_value(tree)
    message = f"expected {want.words} (got {got})."
    findings.add("type", message, path, tree, expected=want.words, got=got, repair=_suggest_rewrite(want, tree))
    return None


def _suggest_rewrite(want: Schema, tree: Tree) -> str | None:
    """What was probably meant: the first rewriting of the value that is as wanted."""
    for candidate, repair in _iter_rewrites(tree):
        trial = Diagnostics()
        if want.is_valid(candidate):
            want.read(candidate, "", trial)
            if not trial.problems:
                return repair
    known = getattr(want, "known", ())
    return suggest(str(tree.value), map(str, known)) if known and isinstance(tree, ScalarNode) else None


_BOOL_WORDS = {"yes": "true", "on": "true", "no": "false", "off": "false"}


def _iter_rewrites(tree: Tree) -> Iterator[tuple[Tree, str]]:
    if isinstance(tree, SequenceNode) and len(tree.entries) == 1 and isinstance(tree.entries[0], ScalarNode):
        yield tree.entries[0], f"write {format_scalar(tree.entries[0].value)}"
    if not isinstance(tree, ScalarNode):
        return
    value, line, column = tree.value, tree.line, tree.column
    if isinstance(value, str):
        truth = _BOOL_WORDS.get(value.lower())
        if truth:
            yield ScalarNode(truth == "true", line, column), f"write {truth}"
        unquoted = _try_parse_scalar(value)
        if not isinstance(unquoted, str):
            yield ScalarNode(unquoted, line, column), f"write {value} without quotes"
    elif isinstance(value, float) and value.is_integer():
        yield ScalarNode(int(value), line, column), f"write {int(value)}"
    yield SequenceNode((tree,), line, column), f"write [{format_scalar(value)}]"


def _try_parse_scalar(text: str) -> Any:
    try:
        return parse_scalar(text)
    except ValueError:
        return text
