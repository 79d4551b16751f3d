"""What a field's annotation lets a text say: exact types, and what to write instead of a wrong one. No torch here."""

from __future__ import annotations

import types
from fractions import Fraction
from functools import cache
from math import isfinite
from operator import itemgetter
from typing import Any, Literal, Union, get_args, get_origin

from attrs import frozen

from composer.feature import fraction
from composer.parts.fields import Options
from composer.parts.weights import WeightsFile
from composer.text.findings import Findings, joined, named
from composer.text.tree import Mapping, Scalar, Sequence, Tree
from composer.text.wanted import Wanted, take


@frozen
class _Exactly:
    """A scalar of exactly these types: `true` is no number, `"64"` is none, `64.0` is no whole one."""

    words: str
    types: tuple[type, ...]

    def fits(self, tree: Tree) -> bool:
        return isinstance(tree, Scalar) and type(tree.value) in self.types

    def read(self, tree: Any, _path: str, _findings: Findings, /) -> Any:
        return tree.value


class _Number(_Exactly):
    def read(self, tree: Any, path: str, findings: Findings, /) -> Any:
        number = float(tree.value)
        if not isfinite(number):
            findings.add("value", f"a number is finite (got {tree.value}).", path, tree)
        return number


class _Ratio(_Exactly):
    def read(self, tree: Any, path: str, findings: Findings, /) -> Any:
        try:
            return fraction(tree.value)
        except ValueError as error:
            findings.add("value", f"{error}.", path, tree)
            return None


@frozen
class _OneOf:
    """A value of a closed list."""

    known: tuple[Any, ...]

    @property
    def words(self) -> str:
        return f"one of {', '.join(map(str, self.known))}"

    def fits(self, tree: Tree) -> bool:
        return isinstance(tree, Scalar) and any(
            type(tree.value) is type(known) and tree.value == known for known in self.known
        )

    def read(self, tree: Any, _path: str, _findings: Findings, /) -> Any:
        return tree.value


@frozen
class _ListOf:
    """A list, of a fixed length where `entries` has one wanted thing for each."""

    entries: tuple[Wanted, ...]
    fixed: bool

    @property
    def words(self) -> str:
        plural = {"a whole number": "whole numbers", "a number": "numbers", "a string": "strings"}
        kinds = {plural.get(entry.words, "values") for entry in self.entries}
        count = f"{len(self.entries)} " if self.fixed else ""
        return f"a list of {count}{kinds.pop() if len(kinds) == 1 else 'values'}"

    def fits(self, tree: Tree) -> bool:
        return isinstance(tree, Sequence) and (not self.fixed or len(tree.entries) == len(self.entries))

    def read(self, tree: Any, path: str, findings: Findings, /) -> Any:
        wanted = self.entries if self.fixed else self.entries * len(tree.entries)
        pairs = zip(wanted, tree.entries, strict=True)
        return tuple(take(entry, node, f"{path}[{i}]", findings) for i, (entry, node) in enumerate(pairs))


@frozen
class _Either:
    """One of several; the first that fits."""

    alternatives: tuple[Wanted, ...]

    @property
    def words(self) -> str:
        return ", or ".join(alternative.words for alternative in self.alternatives)

    def fits(self, tree: Tree) -> bool:
        return any(alternative.fits(tree) for alternative in self.alternatives)

    def read(self, tree: Any, path: str, findings: Findings, /) -> Any:
        return next(a for a in self.alternatives if a.fits(tree)).read(tree, path, findings)


class _Plain:
    """A scalar, or a list of such values."""

    words = "a plain value, or a list of them"

    def fits(self, tree: Tree) -> bool:
        return not isinstance(tree, Mapping)

    def read(self, tree: Any, path: str, findings: Findings, /) -> Any:
        if isinstance(tree, Sequence):
            return _ListOf((self,), fixed=False).read(tree, path, findings)
        if isinstance(tree.value, float):
            NUMBER.read(tree, path, findings)
        return tree.value


class _Value(_Plain):
    """A scalar, or a list or a mapping of such values."""

    words = "a plain value, or a list or a mapping of them"

    def fits(self, _tree: Tree) -> bool:
        return True

    def read(self, tree: Any, path: str, findings: Findings, /) -> Any:
        if isinstance(tree, Mapping):
            return {named(key): take(self, node, joined(path, named(key)), findings) for key, node in tree.pairs}
        return super().read(tree, path, findings)


class _Options:
    """Names and plain values."""

    words = "a mapping of names to plain values"

    def fits(self, tree: Tree) -> bool:
        return isinstance(tree, Mapping)

    def read(self, tree: Any, path: str, findings: Findings, /) -> Any:
        names = [named(key) for key, _ in tree.pairs]
        values = [take(VALUE, node, joined(path, named(key)), findings) for key, node in tree.pairs]
        return tuple(sorted(zip(names, values, strict=True), key=itemgetter(0)))


class _WeightsFile:
    """A mapping of the fields of a `WeightsFile`."""

    words = "a mapping of file and prefix"

    def fits(self, tree: Tree) -> bool:
        return isinstance(tree, Mapping)

    def read(self, tree: Any, path: str, findings: Findings, /) -> Any:
        from composer.text.declaring import declared  # not at the top: it needs this module

        return declared(WeightsFile, path.rpartition(".")[2], tree, path, tree, findings)


WHOLE = _Exactly("a whole number", (int,))
NUMBER = _Number("a number", (int, float))
TRUTH = _Exactly("true or false", (bool,))
STRING = _Exactly("a string", (str,))
NAME = _Exactly("the name of a node or an input", (str,))
NULL = _Exactly("null", (type(None),))
RATIO = _Ratio("a whole number or a ratio such as 3/2", (int, str))
PLAIN = _Plain()
VALUE = _Value()
OPTIONS = _Options()
_SIMPLE: dict[Any, Wanted] = {
    int: WHOLE,
    float: NUMBER,
    bool: TRUTH,
    str: STRING,
    type(None): NULL,
    Fraction: RATIO,
    Options: OPTIONS,
    WeightsFile: _WeightsFile(),
}
SIDES = _ListOf((WHOLE, WHOLE), fixed=True)
_SIDES = _Either((SIDES, WHOLE))


@cache
def wanted(annotation: Any) -> Wanted:
    """What a field of this annotation takes. One that a text cannot meet exactly takes any plain value."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in _SIMPLE:
        return _SIMPLE[annotation]
    if annotation == tuple[int, int]:
        # Height and width; whether one number stands for both is for the field's converter to say.
        return _SIDES
    if origin in (Union, types.UnionType):
        return _Either(tuple(map(wanted, arguments)))
    if origin is Literal:
        return _OneOf(arguments)
    if origin is tuple and arguments:
        fixed = arguments[-1] is not Ellipsis
        return _ListOf(tuple(map(wanted, arguments if fixed else arguments[:-1])), fixed)
    return PLAIN
