"""What a field's annotation lets a text say: exact types, and what to write instead of a wrong one. No torch here."""

from __future__ import annotations

import types
from fractions import Fraction
from functools import cache
from math import isfinite
from operator import itemgetter
from typing import Any, Literal, Union, get_args, get_origin

from attrs import frozen

from composer.feature import parse_stride
from composer.parts.fields import Options
from composer.parts.weights import WeightsFile
from composer.text.findings import Diagnostics, get_key_name, join_path
from composer.text.tree import MappingNode, ScalarNode, SequenceNode, Tree
from composer.text.wanted import Schema, parse_value


@frozen
class _ScalarSchema:
    """A scalar of exactly these types: `true` is no number, `"64"` is none, `64.0` is no whole one."""

    words: str
    types: tuple[type, ...]

    def is_valid(self, tree: Tree) -> bool:
        return isinstance(tree, ScalarNode) and type(tree.value) in self.types

    def read(self, tree: Any, _path: str, _findings: Diagnostics, /) -> Any:
        return tree.value


class _NumberSchema(_ScalarSchema):
    def read(self, tree: Any, path: str, findings: Diagnostics, /) -> Any:
        number = float(tree.value)
        if not isfinite(number):
            findings.add("value", f"a number is finite (got {tree.value}).", path, tree)
        return number


class _RatioSchema(_ScalarSchema):
    def read(self, tree: Any, path: str, findings: Diagnostics, /) -> Any:
        try:
            return parse_stride(tree.value)
        except ValueError as error:
            findings.add("value", f"{error}.", path, tree)
            return None


@frozen
class _ChoiceSchema:
    """A value of a closed list."""

    known: tuple[Any, ...]

    @property
    def words(self) -> str:
        return f"one of {', '.join(map(str, self.known))}"

    def is_valid(self, tree: Tree) -> bool:
        return isinstance(tree, ScalarNode) and any(
            type(tree.value) is type(known) and tree.value == known for known in self.known
        )

    def read(self, tree: Any, _path: str, _findings: Diagnostics, /) -> Any:
        return tree.value


@frozen
class _ListSchema:
    """A list, of a fixed length where `entries` has one wanted thing for each."""

    entries: tuple[Schema, ...]
    fixed: bool

    @property
    def words(self) -> str:
        plural = {"a whole number": "whole numbers", "a number": "numbers", "a string": "strings"}
        kinds = {plural.get(entry.words, "values") for entry in self.entries}
        count = f"{len(self.entries)} " if self.fixed else ""
        return f"a list of {count}{kinds.pop() if len(kinds) == 1 else 'values'}"

    def is_valid(self, tree: Tree) -> bool:
        return isinstance(tree, SequenceNode) and (not self.fixed or len(tree.entries) == len(self.entries))

    def read(self, tree: Any, path: str, findings: Diagnostics, /) -> Any:
        wanted = self.entries if self.fixed else self.entries * len(tree.entries)
        pairs = zip(wanted, tree.entries, strict=True)
        return tuple(parse_value(entry, node, f"{path}[{i}]", findings) for i, (entry, node) in enumerate(pairs))


@frozen
class _UnionSchema:
    """One of several; the first that fits."""

    alternatives: tuple[Schema, ...]

    @property
    def words(self) -> str:
        return ", or ".join(alternative.words for alternative in self.alternatives)

    def is_valid(self, tree: Tree) -> bool:
        return any(alternative.is_valid(tree) for alternative in self.alternatives)

    def read(self, tree: Any, path: str, findings: Diagnostics, /) -> Any:
        return next(a for a in self.alternatives if a.is_valid(tree)).read(tree, path, findings)


class _PlainSchema:
    """A scalar, or a list of such values."""

    words = "a plain value, or a list of them"

    def is_valid(self, tree: Tree) -> bool:
        return not isinstance(tree, MappingNode)

    def read(self, tree: Any, path: str, findings: Diagnostics, /) -> Any:
        if isinstance(tree, SequenceNode):
            return _ListSchema((self,), fixed=False).read(tree, path, findings)
        if isinstance(tree.value, float):
            NUMBER.read(tree, path, findings)
        return tree.value


class _ValueSchema(_PlainSchema):
    """A scalar, or a list or a mapping of such values."""

    words = "a plain value, or a list or a mapping of them"

    def is_valid(self, _tree: Tree) -> bool:
        return True

    def read(self, tree: Any, path: str, findings: Diagnostics, /) -> Any:
        if isinstance(tree, MappingNode):
            return {
                get_key_name(key): parse_value(self, node, join_path(path, get_key_name(key)), findings)
                for key, node in tree.pairs
            }
        return super().read(tree, path, findings)


class _OptionsSchema:
    """Names and plain values."""

    words = "a mapping of names to plain values"

    def is_valid(self, tree: Tree) -> bool:
        return isinstance(tree, MappingNode)

    def read(self, tree: Any, path: str, findings: Diagnostics, /) -> Any:
        names = [get_key_name(key) for key, _ in tree.pairs]
        values = [parse_value(VALUE, node, join_path(path, get_key_name(key)), findings) for key, node in tree.pairs]
        return tuple(sorted(zip(names, values, strict=True), key=itemgetter(0)))


class _WeightsFileSchema:
    """A mapping of the fields of a `WeightsFile`."""

    words = "a mapping of file and prefix"

    def is_valid(self, tree: Tree) -> bool:
        return isinstance(tree, MappingNode)

    def read(self, tree: Any, path: str, findings: Diagnostics, /) -> Any:
        from composer.text.declaring import construct  # not at the top: it needs this module

        return construct(WeightsFile, path.rpartition(".")[2], tree, path, tree, findings)


INTEGER = _ScalarSchema("a whole number", (int,))
NUMBER = _NumberSchema("a number", (int, float))
BOOLEAN = _ScalarSchema("true or false", (bool,))
STRING = _ScalarSchema("a string", (str,))
NAME = _ScalarSchema("the name of a node or an input", (str,))
NULL = _ScalarSchema("null", (type(None),))
RATIO = _RatioSchema("a whole number or a ratio such as 3/2", (int, str))
PLAIN = _PlainSchema()
VALUE = _ValueSchema()
OPTIONS = _OptionsSchema()
_SIMPLE_SCHEMAS: dict[Any, Schema] = {
    int: INTEGER,
    float: NUMBER,
    bool: BOOLEAN,
    str: STRING,
    type(None): NULL,
    Fraction: RATIO,
    Options: OPTIONS,
    WeightsFile: _WeightsFileSchema(),
}
SIDE_PAIR = _ListSchema((INTEGER, INTEGER), fixed=True)
_SIDE_OR_PAIR = _UnionSchema((SIDE_PAIR, INTEGER))


@cache
def build_schema(annotation: Any) -> Schema:
    """What a field of this annotation takes. One that a text cannot meet exactly takes any plain value."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in _SIMPLE_SCHEMAS:
        return _SIMPLE_SCHEMAS[annotation]
    if annotation == tuple[int, int]:
        # Height and width; whether one number stands for both is for the field's converter to say.
        return _SIDE_OR_PAIR
    if origin in (Union, types.UnionType):
        return _UnionSchema(tuple(map(build_schema, arguments)))
    if origin is Literal:
        return _ChoiceSchema(arguments)
    if origin is tuple and arguments:
        fixed = arguments[-1] is not Ellipsis
        return _ListSchema(tuple(map(build_schema, arguments if fixed else arguments[:-1])), fixed)
    return PLAIN
