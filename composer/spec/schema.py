"""Check values of a spec against the types of fields."""

from __future__ import annotations

import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from fractions import Fraction
from functools import cache
from math import isfinite
from operator import itemgetter
from types import MappingProxyType
from typing import Any, Literal, Protocol, Union, get_args, get_origin

from attrs import define, field, frozen

from composer.errors import MAX_PROBLEMS, Place, Problem, Source, find_close_matches, suggest
from composer.layouts import parse_stride
from composer.parts.encoders import WeightsFile
from composer.parts.validators import Options
from composer.spec.yaml import MappingNode, ScalarNode, SequenceNode, Tree, describe_value, format_scalar, parse_scalar

SYNONYMS: Mapping[str, str] = MappingProxyType(
    {
        "backbone": "encoder",
        "decode_head": "decoder",
        "classifier": "head",
        "auxiliary_head": "aux",
        "auxiliary_heads": "aux",
        "decoder_channels": "channels",
    }
)
"""What other libraries call the keys of a spec."""


UNSUPPORTED_KEYS: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(
        ("class_names", "classes_names", "label_names", "labels", "id2label", "colors", "colours", "palette"),
        "leave it out: a model does not store the names and colors of its classes",
    )
    | dict.fromkeys(("in_channels", "in_chans", "num_channels"), "set the channels of the input: input: {channels: …}")
)
"""Keys that are no misspelling of any other, however much they look like one, with what to do instead."""


class TooManyProblemsError(Exception):
    """More problems than are told at once have been found."""


@define
class Diagnostics:
    """Filled while a tree is read; nothing is raised until all of it has been seen, or more is wrong than is told."""

    file: str | None = None
    problems: list[Problem] = field(factory=list)
    marks: dict[str, tuple[int, int]] = field(factory=dict)

    @property
    def source(self) -> Source:
        """What the graph is told of its text."""
        return Source(self.file, self.marks)

    def mark(self, path: str, at: Tree) -> None:
        """Remember where the value of `path` stands."""
        self.marks[path] = (at.line, at.column)

    def add(
        self,
        code: str,
        message: str,
        path: str,
        at: Tree,
        *,
        expected: str | None = None,
        got: str | None = None,
        repair: str | None = None,
    ) -> None:
        """Put a problem down, at a place of the tree. Raises TooManyProblemsError after one more than are told at once."""
        place = Place(path, self.file, at.line, at.column)
        self.problems.append(
            Problem(code=code, message=message, place=place, expected=expected, got=got, repair=repair)
        )
        if len(self.problems) > MAX_PROBLEMS:
            raise TooManyProblemsError

    def keys(
        self,
        owner: str,
        noun: str,
        keys: Iterable[Tree],
        known: Iterable[str],
        path: str,
        instead: Mapping[str, str] = UNSUPPORTED_KEYS,
    ) -> None:
        """Add a problem for each unknown key. `instead` says what to do about some of them."""
        names = list(known)
        for key in keys:
            message = f"{owner} has no {noun} {get_key_name(key)!r}."
            repair = instead.get(get_key_name(key)) or suggest_key(get_key_name(key), names, owner)
            self.add("key", message, join_path(path, get_key_name(key)), key, got=get_key_name(key), repair=repair)


def get_key_name(key: Tree) -> str:
    """The text of a key, which the document has made sure is a string."""
    return str(getattr(key, "value", ""))


def join_path(path: str, name: str) -> str:
    """The path of a field: `decoder.channels`."""
    return f"{path}.{name}" if path else name


def is_misspelling(missing: str, written: Iterable[str]) -> bool:
    """Return whether a missing key is there under an unknown name, which is a problem of its own."""
    names = [name for name in written if name not in UNSUPPORTED_KEYS]
    return any(SYNONYMS.get(name) == missing for name in names) or bool(find_close_matches(missing, names))


def suggest_key(name: str, known: Collection[str], owner: str) -> str:
    """Return what to write instead of an unknown key."""
    if SYNONYMS.get(name) in known:
        return f"did you mean {SYNONYMS[name]}?"
    return suggest(name, known) if known else f"leave it out: {owner} has none"


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
        from composer.spec.parts import construct  # not at the top: it needs this module

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
