"""Whether a value is what is wanted in its place; what to write where it is not. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from composer.problem import nearest
from composer.text.findings import Findings
from composer.text.scalars import resolved, spelled
from composer.text.tree import Scalar, Sequence, Tree, described


class Wanted(Protocol):
    """What a value has to be. `words` completes a sentence that begins with "expected"."""

    @property
    def words(self) -> str: ...  # noqa: D102

    def fits(self, tree: Tree) -> bool:
        """Whether the value is of this kind at first sight; its entries are looked at by `read`."""

    def read(self, tree: Any, path: str, findings: Findings, /) -> Any:
        """The value for Python, of which `fits` is true. What is wrong inside is put down in `findings`."""


def take(want: Wanted, tree: Tree, path: str, findings: Findings) -> Any:
    """The value of `tree` where it is as wanted. Otherwise None, and a problem in `findings`."""
    findings.mark(path, tree)
    if want.fits(tree):
        return want.read(tree, path, findings)
    got = described(tree)
    message = f"expected {want.words} (got {got})."
    findings.add("type", message, path, tree, expected=want.words, got=got, repair=_mended(want, tree))
    return None


def _mended(want: Wanted, tree: Tree) -> str | None:
    """What was probably meant: the first rewriting of the value that is as wanted."""
    for candidate, repair in _rewritings(tree):
        trial = Findings()
        if want.fits(candidate):
            want.read(candidate, "", trial)
            if not trial.problems:
                return repair
    known = getattr(want, "known", ())
    return nearest(str(tree.value), map(str, known)) if known and isinstance(tree, Scalar) else None


_TRUTHS = {"yes": "true", "on": "true", "no": "false", "off": "false"}


def _rewritings(tree: Tree) -> Iterator[tuple[Tree, str]]:
    if isinstance(tree, Sequence) and len(tree.entries) == 1 and isinstance(tree.entries[0], Scalar):
        yield tree.entries[0], f"write {spelled(tree.entries[0].value)}"
    if not isinstance(tree, Scalar):
        return
    value, line, column = tree.value, tree.line, tree.column
    if isinstance(value, str):
        truth = _TRUTHS.get(value.lower())
        if truth:
            yield Scalar(truth == "true", line, column), f"write {truth}"
        unquoted = _resolved(value)
        if not isinstance(unquoted, str):
            yield Scalar(unquoted, line, column), f"write {value} without quotes"
    elif isinstance(value, float) and value.is_integer():
        yield Scalar(int(value), line, column), f"write {int(value)}"
    yield Sequence((tree,), line, column), f"write [{spelled(value)}]"


def _resolved(text: str) -> Any:
    try:
        return resolved(text)
    except ValueError:
        return text
