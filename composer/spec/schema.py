"""Read values, and declarations from mappings of their fields, by the types of the fields."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from fractions import Fraction
from functools import cache, partial
from itertools import repeat
from math import isfinite
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import attrs
from attrs import define, frozen

from composer.errors import MAX_PROBLEMS, Place, Problem, find_close_matches, suggest
from composer.layouts import parse_stride
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
T = TypeVar("T")


class TooManyProblemsError(Exception):
    """Ends the reading of a spec that has more problems than are reported at once."""


@define
class Diagnostics:
    """Collects the problems of a spec, and the line and column of each path.

    Each method that reports raises TooManyProblemsError after one problem more than is shown.
    """

    file: str | None = None
    problems: list[Problem] = attrs.field(factory=list)
    marks: dict[str, tuple[int, int]] = attrs.field(factory=dict)

    def record(self, path: str, at: Tree) -> None:
        """Record the position of the value of `path`."""
        self.marks[path] = (at.line, at.column)

    def add(self, code: str, message: str, path: str, at: Tree, fix: str | None = None, **sides: str | None) -> None:
        """Add a problem at the position of a value. `sides` are `expected` and `got`."""
        place = Place(path, self.file, at.line, at.column)
        self.problems.append(Problem(code=code, message=message, place=place, fix=fix, **sides))
        if len(self.problems) > MAX_PROBLEMS:
            raise TooManyProblemsError

    def report_mismatch(
        self, expected: str, path: str, at: Tree, fix: str | None = None, got: str | None = None
    ) -> None:
        """Report a value of the wrong type."""
        got = got or describe_value(at)
        self.add("type", f"expected {expected} (got {got}).", path, at, fix, expected=expected, got=got)

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
            self.add("key", message, path, at, fix)

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
        keys = {str(key.value): key for key, _ in mapping.pairs if key.value not in known and key.value not in ignored}
        for name, key in keys.items():
            fix = instead(name) or _suggest_key(name, known, owner)
            self.add("key", f"{owner} has no {noun} {name!r}.", join_path(path, name), key, fix, got=name)
        return list(keys)


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
        with suppress(ValueError):
            unquoted = parse_scalar(value)
            if not isinstance(unquoted, str):
                yield tree._replace(value=unquoted), f"write {value} without quotes"
    elif isinstance(value, float) and value.is_integer():
        yield tree._replace(value=int(value)), f"write {int(value)}"
    yield SequenceNode((tree,), tree.line, tree.column), f"write a list, such as [{format_scalar(value)}]"


def _read_scalar(convert: Callable[[Any], Any], tree: ScalarNode, path: str, diagnostics: Diagnostics) -> Any:
    try:
        return convert(tree.value)
    except ValueError as error:
        diagnostics.add("value", f"{error}.", path, tree)
        return None


def _convert_number(value: float) -> float:
    if not isfinite(value):
        raise ValueError(f"a number is finite (got {value})")
    return float(value)


def _read_entries(
    schemas: Iterable[Schema], tree: SequenceNode, path: str, diagnostics: Diagnostics
) -> tuple[Any, ...]:
    pairs = enumerate(zip(schemas, tree.entries, strict=False))
    return tuple(parse_value(schema, entry, f"{path}[{index}]", diagnostics) for index, (schema, entry) in pairs)


def _is_mapping(tree: Tree) -> bool:
    return isinstance(tree, MappingNode)


def _make_scalar(words: str, *types: type, convert: Callable[[Any], Any] = lambda value: value) -> Schema:
    """Make the schema of a scalar of exactly these types: `true` is not a number, nor is `"64"`."""
    return Schema(
        words, lambda tree: isinstance(tree, ScalarNode) and type(tree.value) in types, partial(_read_scalar, convert)
    )


def _make_choice(known: tuple[Any, ...]) -> Schema:
    # Compared with their types, because in Python True == 1.
    typed = {(type(one), one) for one in known}
    return Schema(
        f"one of {', '.join(map(str, known))}",
        lambda tree: isinstance(tree, ScalarNode) and (type(tree.value), tree.value) in typed,
        lambda tree, *_: tree.value,
        known,
    )


def _make_list(entries: tuple[Schema, ...], *, fixed: bool) -> Schema:
    """Make the schema of a list: of one entry for each schema if `fixed`, else of any number of the only one."""
    kinds = {_PLURALS.get(entry.words, "values") for entry in entries}
    count = f"{len(entries)} " if fixed else ""
    return Schema(
        f"a list of {count}{kinds.pop() if len(kinds) == 1 else 'values'}",
        lambda tree: isinstance(tree, SequenceNode) and (not fixed or len(tree.entries) == len(entries)),
        lambda tree, *rest: _read_entries(entries if fixed else repeat(entries[0]), tree, *rest),
    )


def _make_union(alternatives: tuple[Schema, ...]) -> Schema:
    """Make the schema of a value that the first matching alternative reads."""

    def read(tree: Tree, path: str, diagnostics: Diagnostics) -> Any:
        return next(schema for schema in alternatives if schema.accepts(tree)).read(tree, path, diagnostics)

    words = ", or ".join(schema.words for schema in alternatives)
    return Schema(words, lambda tree: any(schema.accepts(tree) for schema in alternatives), read)


def _make_plain(words: str, *, mappings: bool) -> Schema:
    """Make the schema of scalars, lists of them at any depth, and perhaps mappings."""

    def read(tree: Tree, path: str, diagnostics: Diagnostics) -> Any:
        if isinstance(tree, SequenceNode):
            return _read_entries(repeat(schema), tree, path, diagnostics)
        if isinstance(tree, MappingNode):
            values = tree.by_name.items()
            return {name: parse_value(schema, value, join_path(path, name), diagnostics) for name, value in values}
        is_float = isinstance(tree.value, float)
        return _read_scalar(_convert_number, tree, path, diagnostics) if is_float else tree.value

    schema = Schema(words, lambda tree: mappings or not isinstance(tree, MappingNode), read)
    return schema


def _make_mapping(cls: type) -> Schema:
    """Make the schema of a declaration inside of another."""

    def read(tree: MappingNode, path: str, diagnostics: Diagnostics) -> Any:
        return construct(cls, path.rpartition(".")[2], tree, path, tree, diagnostics)

    return Schema(f"a mapping of {' and '.join(get_fields(cls))}", _is_mapping, read)


_PLURALS = {"a whole number": "whole numbers", "a number": "numbers", "a string": "strings"}
INTEGER = _make_scalar("a whole number", int)
BOOLEAN = _make_scalar("true or false", bool)
NAME = _make_scalar("the name of a node or an input", str)
PLAIN = _make_plain("a plain value, or a list of them", mappings=False)
_ANY = _make_plain("a plain value, or a list or a mapping of them", mappings=True)
OPTIONS = Schema(
    "a mapping of names to plain values", _is_mapping, lambda *place: tuple(sorted(_ANY.read(*place).items()))
)
SIDE_PAIR = _make_list((INTEGER, INTEGER), fixed=True)

_SCHEMAS: dict[Any, Schema] = {
    int: INTEGER,
    float: _make_scalar("a number", int, float, convert=_convert_number),
    bool: BOOLEAN,
    str: _make_scalar("a string", str),
    type(None): _make_scalar("null", type(None)),
    Fraction: _make_scalar("a whole number or a ratio such as 3/2", int, str, convert=parse_stride),
    Options: OPTIONS,
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
    return _make_mapping(annotation) if attrs.has(annotation) else PLAIN


@frozen
class Field:
    """A field of a declaration: its attribute, the schema of its values, and whether it must be set."""

    attribute: attrs.Attribute[Any]
    wanted: Schema
    required: bool


def get_fields(cls: Any) -> Mapping[str, Field]:
    """Return the fields of a declaration by their names in a spec."""
    return _collect_fields(cls)


@cache
def _collect_fields(cls: Any) -> Mapping[str, Field]:
    hints = get_type_hints(cls)
    return {
        attribute.alias or attribute.name: Field(
            attribute, build_schema(hints.get(attribute.name)), required=attribute.default is attrs.NOTHING
        )
        for attribute in attrs.fields(cls)
        if attribute.init
    }


def construct(
    cls: type[T],
    subject: str,
    fields: MappingNode | None,
    path: str,
    at: Tree,
    diagnostics: Diagnostics,
    given: Mapping[str, Any] | None = None,
) -> T | None:
    """Construct a declaration from `fields`, and from `given`, which a spec cannot set.

    `subject` names it in messages, and `at` is its position. Reports the problems of each field, and then returns None.
    """
    before = len(diagnostics.problems)
    given = given or {}
    known = get_fields(cls)
    settable = known.keys() - given.keys()
    fields = fields or MappingNode((), at.line, at.column)
    trees = {name: tree for name, tree in fields.by_name.items() if name in settable}
    values: dict[str, Any] = {}
    for name, tree in trees.items():
        count = len(diagnostics.problems)
        value = parse_value(known[name].wanted, tree, join_path(path, name), diagnostics)
        if len(diagnostics.problems) == count:
            values[name] = value
    instead = partial(_find_replacement, cls, settable)
    unknown = diagnostics.report_unknown(subject, "field", fields, settable, path, instead=instead)
    for name, field in known.items():
        if field.required and name in settable and name not in trees:
            fix = f"add {name}, {field.wanted.words}"
            diagnostics.report_missing(name, unknown, f"{subject} needs {name}.", path, at, fix)
    for name, value in values.items():
        attribute = known[name].attribute
        if message := _find_error(attribute, value):
            diagnostics.add("value", message, join_path(path, name), trees[name], _suggest_value(attribute, value))
    if len(diagnostics.problems) > before:
        return None
    try:
        return cls(**given, **values)
    except (ValueError, TypeError) as error:
        message = _format_message(error)
    # A rule on several fields names them.
    word = next((word for word in re.findall(r"\w+", message) if word in trees), None)
    diagnostics.add("value", message, join_path(path, word) if word else path, trees[word] if word else at)
    return None


def _find_replacement(cls: type, settable: Collection[str], name: str) -> str | None:
    """Return the fix for a name that is not a field of a declaration, if it is not a misspelling."""
    fix = getattr(cls, "instead", {}).get(name) or UNSUPPORTED_KEYS.get(name)
    if fix or "options" not in settable or name in get_fields(cls) or find_close_matches(name, settable):
        return fix
    return f"options: {{{name}: …}}, if it is an argument of the network; {suggest(name, settable)}"


def _find_error(attribute: attrs.Attribute[Any], value: Any) -> str | None:
    """Return why the converter or the validator of a field rejects a value; None where it does not."""
    converter: Any = attribute.converter
    # The constructor calls those that need the instance, such as a validator that reads another field.
    if isinstance(converter, attrs.Converter):
        return None
    try:
        with suppress(AttributeError):
            converted = converter(value) if converter else value
            if attribute.validator:
                attribute.validator(None, attribute, converted)
    except (ValueError, TypeError) as error:
        return _format_message(error)
    return None


def _format_message(error: Exception) -> str:
    return f"{error.args[0] if error.args else type(error).__name__}."


def _suggest_value(attribute: attrs.Attribute[Any], value: Any) -> str | None:
    names = [name for name in getattr(attribute.validator, "known", ()) if isinstance(name, str)]
    return suggest(value, names) if isinstance(value, str) and is_misspelling(value, names) else None
