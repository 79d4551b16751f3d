"""Check values of a spec against the types of fields."""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from fractions import Fraction
from functools import cache
from itertools import repeat
from math import isfinite
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from attrs import define, field, frozen

from composer.errors import MAX_PROBLEMS, Place, Problem, find_close_matches, suggest
from composer.layouts import parse_stride
from composer.parts.encoders import WeightsFile
from composer.parts.validators import Options
from composer.spec.yaml import MappingNode, ScalarNode, SequenceNode, Tree, describe_value, format_scalar, parse_scalar

SYNONYMS: Mapping[str, str] = {
    "backbone": "encoder",
    "decode_head": "decoder",
    "classifier": "head",
    "auxiliary_head": "aux",
    "auxiliary_heads": "aux",
    "decoder_channels": "channels",
}
"""The names that other libraries have for the keys of a spec."""

UNSUPPORTED_KEYS: Mapping[str, str] = {
    **dict.fromkeys(
        ("class_names", "classes_names", "label_names", "labels", "id2label", "colors", "colours", "palette"),
        "leave it out: a model does not store the names and colors of its classes",
    ),
    **dict.fromkeys(("in_channels", "in_chans", "num_channels"), "set the channels of the input: input: {channels: …}"),
}
"""Keys that are never a misspelling of another, however similar, with what to do instead."""

N = TypeVar("N", MappingNode, SequenceNode)


class TooManyProblemsError(Exception):
    """Ends the reading of a spec that has more problems than are reported at once."""


@define
class Diagnostics:
    """Collects the problems of a spec, and the line and column of each path.

    Each method that reports raises TooManyProblemsError after one problem more than is shown.
    """

    file: str | None = None
    problems: list[Problem] = field(factory=list)
    marks: dict[str, tuple[int, int]] = field(factory=dict)

    def record(self, path: str, at: Tree) -> None:
        """Record the position of the value of `path`."""
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
        fix: str | None = None,
    ) -> None:
        """Add a problem at the position of a value."""
        place = Place(path, self.file, at.line, at.column)
        self.problems.append(Problem(code=code, message=message, place=place, expected=expected, got=got, fix=fix))
        if len(self.problems) > MAX_PROBLEMS:
            raise TooManyProblemsError

    def report_mismatch(
        self, expected: str, path: str, at: Tree, fix: str | None = None, got: str | None = None
    ) -> None:
        """Report a value of the wrong type."""
        got = got or describe_value(at)
        self.add("type", f"expected {expected} (got {got}).", path, at, expected=expected, got=got, fix=fix)

    def require(self, shape: type[N], at: Tree, path: str, expected: str, fix: str | None = None) -> N | None:
        """Record the position of a value and return it, if it is of this shape. Otherwise report that."""
        self.record(path, at)
        if isinstance(at, shape):
            return at
        self.report_mismatch(expected, path, at, fix)
        return None

    def report_missing(
        self, key: str, unknown: Iterable[str], message: str, path: str, at: Tree, fix: str | None
    ) -> None:
        """Report a missing key, unless one of the `unknown` keys is a misspelling of it."""
        if not is_misspelling(key, unknown):
            self.add("key", message, path, at, fix=fix)

    def report_unknown(
        self,
        owner: str,
        noun: str,
        mapping: MappingNode,
        known: Collection[str],
        path: str,
        *,
        ignored: Collection[str] = (),
        instead: Callable[[str], str | None] = UNSUPPORTED_KEYS.get,
    ) -> list[str]:
        """Report the keys of a mapping that are not known, and return their names. `instead` has fixes for some."""
        keys = [key for key, _ in mapping.pairs if key.value not in known and key.value not in ignored]
        names = [get_key_name(key) for key in keys]
        for name, key in zip(names, keys, strict=True):
            fix = instead(name) or _suggest_key(name, known, owner)
            self.add("key", f"{owner} has no {noun} {name!r}.", join_path(path, name), key, got=name, fix=fix)
        return names


def get_key_name(key: Tree) -> str:
    """Return the text of a key, which is always a string."""
    return str(getattr(key, "value", ""))


def join_path(path: str, name: str) -> str:
    """Return the path of a field: `decoder.channels`."""
    return f"{path}.{name}" if path else name


def is_misspelling(missing: str, unknown: Iterable[str]) -> bool:
    """Return whether one of the unknown names stands for the missing one."""
    names = [name for name in unknown if name not in UNSUPPORTED_KEYS]
    return any(SYNONYMS.get(name) == missing for name in names) or bool(find_close_matches(missing, names))


def _suggest_key(name: str, known: Collection[str], owner: str) -> str:
    if SYNONYMS.get(name) in known:
        return f"did you mean {SYNONYMS[name]}?"
    return suggest(name, known) if known else f"leave it out: {owner} has none"


@frozen
class Schema:
    """The values that a field takes.

    `words` completes a sentence that begins with "expected". `accepts` checks the type of a value, but not of its
    entries; `read` returns the Python value of an accepted one, and reports the entries that are wrong.
    """

    words: str
    accepts: Callable[[Tree], bool]
    read: Callable[[Any, str, Diagnostics], Any]
    known: tuple[Any, ...] = ()


def parse_value(schema: Schema, tree: Tree, path: str, diagnostics: Diagnostics) -> Any:
    """Return the Python value of `tree`. If it is not valid, report that and return None."""
    diagnostics.record(path, tree)
    if schema.accepts(tree):
        return schema.read(tree, path, diagnostics)
    diagnostics.report_mismatch(schema.words, path, tree, _suggest_rewrite(schema, tree))
    return None


def _suggest_rewrite(schema: Schema, tree: Tree) -> str | None:
    """Return the first rewriting of a value that is valid."""
    for candidate, fix in _iter_rewrites(tree):
        trial = Diagnostics()
        if schema.accepts(candidate):
            schema.read(candidate, "", trial)
            if not trial.problems:
                return fix
    if schema.known and isinstance(tree, ScalarNode):
        return suggest(str(tree.value), map(str, schema.known))
    return None


_BOOL_WORDS = {"yes": "true", "on": "true", "no": "false", "off": "false"}


def _iter_rewrites(tree: Tree) -> Iterator[tuple[Tree, str]]:
    if isinstance(tree, SequenceNode) and len(tree.entries) == 1 and isinstance(tree.entries[0], ScalarNode):
        yield tree.entries[0], f"write {format_scalar(tree.entries[0].value)}"
    if not isinstance(tree, ScalarNode):
        return
    value = tree.value
    if isinstance(value, str):
        if word := _BOOL_WORDS.get(value.lower()):
            yield tree._replace(value=word == "true"), f"write {word}"
        try:
            unquoted = parse_scalar(value)
        except ValueError:
            unquoted = value
        if not isinstance(unquoted, str):
            yield tree._replace(value=unquoted), f"write {value} without quotes"
    elif isinstance(value, float) and value.is_integer():
        yield tree._replace(value=int(value)), f"write {int(value)}"
    yield SequenceNode((tree,), tree.line, tree.column), f"write a list, such as [{format_scalar(value)}]"


def _get_value(tree: ScalarNode, _path: str, _findings: Diagnostics) -> Any:
    return tree.value


def _read_number(tree: Any, path: str, diagnostics: Diagnostics) -> float:
    number = float(tree.value)
    if not isfinite(number):
        diagnostics.add("value", f"a number is finite (got {tree.value}).", path, tree)
    return number


def _read_ratio(tree: Any, path: str, diagnostics: Diagnostics) -> Fraction | None:
    try:
        return parse_stride(tree.value)
    except ValueError as error:
        diagnostics.add("value", f"{error}.", path, tree)
        return None


def _read_entries(
    schemas: Iterable[Schema], tree: SequenceNode, path: str, diagnostics: Diagnostics
) -> tuple[Any, ...]:
    pairs = enumerate(zip(schemas, tree.entries, strict=False))
    return tuple(parse_value(schema, entry, f"{path}[{index}]", diagnostics) for index, (schema, entry) in pairs)


def _read_plain(tree: ScalarNode | SequenceNode, path: str, diagnostics: Diagnostics) -> Any:
    if isinstance(tree, SequenceNode):
        return _read_entries(repeat(PLAIN), tree, path, diagnostics)
    return (_read_number if isinstance(tree.value, float) else _get_value)(tree, path, diagnostics)


def _read_any(tree: Tree, path: str, diagnostics: Diagnostics) -> Any:
    if isinstance(tree, SequenceNode):
        return _read_entries(repeat(_ANY), tree, path, diagnostics)
    if isinstance(tree, MappingNode):
        values = tree.by_name.items()
        return {name: parse_value(_ANY, value, join_path(path, name), diagnostics) for name, value in values}
    return _read_plain(tree, path, diagnostics)


def _read_options(tree: MappingNode, path: str, diagnostics: Diagnostics) -> Any:
    return tuple(sorted(_read_any(tree, path, diagnostics).items()))


def _read_weights_file(tree: MappingNode, path: str, diagnostics: Diagnostics) -> WeightsFile | None:
    from composer.spec.parts import construct  # not at the top: it needs this module

    return construct(WeightsFile, path.rpartition(".")[2], tree, path, tree, diagnostics)


def _is_mapping(tree: Tree) -> bool:
    return isinstance(tree, MappingNode)


def _make_scalar(words: str, *types: type, read: Callable[[Any, str, Diagnostics], Any] = _get_value) -> Schema:
    """Make the schema of a scalar of exactly these types: `true` is not a number, nor is `"64"`."""
    return Schema(words, lambda tree: isinstance(tree, ScalarNode) and type(tree.value) in types, read)


def _make_choice(known: tuple[Any, ...]) -> Schema:
    def is_known(tree: Tree) -> bool:
        # Compared with their types, because in Python True == 1.
        return isinstance(tree, ScalarNode) and (type(tree.value), tree.value) in {(type(one), one) for one in known}

    return Schema(f"one of {', '.join(map(str, known))}", is_known, _get_value, known)


def _make_list(entries: tuple[Schema, ...], *, fixed: bool) -> Schema:
    """Make the schema of a list: of one entry for each schema if `fixed`, else of any number of the only one."""
    kinds = {_PLURALS.get(entry.words, "values") for entry in entries}
    count = f"{len(entries)} " if fixed else ""
    return Schema(
        f"a list of {count}{kinds.pop() if len(kinds) == 1 else 'values'}",
        lambda tree: isinstance(tree, SequenceNode) and (not fixed or len(tree.entries) == len(entries)),
        lambda tree, path, diagnostics: _read_entries(
            entries if fixed else repeat(entries[0]), tree, path, diagnostics
        ),
    )


def _make_union(alternatives: tuple[Schema, ...]) -> Schema:
    """Make the schema of a value that the first matching alternative reads."""

    def find(tree: Tree) -> Schema | None:
        return next((schema for schema in alternatives if schema.accepts(tree)), None)

    def read(tree: Tree, path: str, diagnostics: Diagnostics) -> Any:
        schema = find(tree)
        return schema and schema.read(tree, path, diagnostics)

    return Schema(", or ".join(schema.words for schema in alternatives), lambda tree: find(tree) is not None, read)


_PLURALS = {"a whole number": "whole numbers", "a number": "numbers", "a string": "strings"}
INTEGER = _make_scalar("a whole number", int)
NUMBER = _make_scalar("a number", int, float, read=_read_number)
BOOLEAN = _make_scalar("true or false", bool)
STRING = _make_scalar("a string", str)
NAME = _make_scalar("the name of a node or an input", str)
PLAIN = Schema("a plain value, or a list of them", lambda tree: not isinstance(tree, MappingNode), _read_plain)
_ANY = Schema("a plain value, or a list or a mapping of them", lambda _: True, _read_any)
OPTIONS = Schema("a mapping of names to plain values", _is_mapping, _read_options)
SIDE_PAIR = _make_list((INTEGER, INTEGER), fixed=True)

_SCHEMAS: dict[Any, Schema] = {
    int: INTEGER,
    float: NUMBER,
    bool: BOOLEAN,
    str: STRING,
    type(None): _make_scalar("null", type(None)),
    Fraction: _make_scalar("a whole number or a ratio such as 3/2", int, str, read=_read_ratio),
    Options: OPTIONS,
    WeightsFile: Schema("a mapping of file and prefix", _is_mapping, _read_weights_file),
    # Height and width; the field's converter decides whether one number means both.
    tuple[int, int]: _make_union((SIDE_PAIR, INTEGER)),
}


@cache
def build_schema(annotation: Any) -> Schema:
    """Return the schema of a field with this annotation; one that takes any plain value if the type is not known."""
    if annotation in _SCHEMAS:
        return _SCHEMAS[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _make_union(tuple(map(build_schema, arguments)))
    if origin is Literal:
        return _make_choice(arguments)
    if origin is tuple and arguments:
        fixed = arguments[-1] is not Ellipsis
        return _make_list(tuple(map(build_schema, arguments if fixed else arguments[:-1])), fixed=fixed)
    return PLAIN
