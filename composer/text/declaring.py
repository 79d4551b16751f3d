"""From a mapping of fields to a declaration: a frozen class, or all that is wrong with its fields. No torch here."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, TypeVar, get_type_hints

import attrs
from attrs import frozen

from composer.problem import find_close_matches, suggest
from composer.text import tree as text
from composer.text.annotations import build_schema
from composer.text.findings import UNSUPPORTED_KEYS, Diagnostics, get_key_name, is_misspelling, join_path
from composer.text.tree import Tree
from composer.text.wanted import Schema, parse_value

T = TypeVar("T")


@frozen
class Field:
    """What a field takes, and who checks it."""

    attribute: attrs.Attribute[Any]
    wanted: Schema
    required: bool


def get_fields(cls: Any) -> Mapping[str, Field]:
    """The fields of a declaration as a text may name them."""
    return _collect_fields(cls)


@cache
def _collect_fields(cls: Any) -> Mapping[str, Field]:
    hints = get_type_hints(cls)
    fields = [attribute for attribute in attrs.fields(cls) if attribute.init]
    wants = [build_schema(hints.get(attribute.name)) for attribute in fields]
    return {
        attribute.alias or attribute.name: Field(attribute, want, required=attribute.default is attrs.NOTHING)
        for attribute, want in zip(fields, wants, strict=True)
    }


def construct(
    cls: type[T],
    subject: str,
    fields: text.MappingNode | None,
    path: str,
    at: Tree,
    findings: Diagnostics,
    given: Mapping[str, Any] | None = None,
) -> T | None:
    """The declaration that `fields` and `given` make. Otherwise None, and every field's problem in `findings`.

    `subject` names it in a sentence, and `at` is where it stands. A text cannot set what is `given`.
    """
    before = len(findings.problems)
    given = given or {}
    known = get_fields(cls)
    values: dict[str, Any] = {}
    trees: dict[str, Tree] = {}
    unknown = []
    for key, tree in fields.pairs if fields else ():
        name = get_key_name(key)
        if name not in known or name in given:
            unknown.append(key)
            continue
        trees[name] = tree
        count = len(findings.problems)
        value = parse_value(known[name].wanted, tree, join_path(path, name), findings)
        if len(findings.problems) == count:
            values[name] = value
    if unknown:
        settable = known.keys() - given.keys()
        findings.keys(
            subject, "field", unknown, settable, path, _find_replacements(cls, map(get_key_name, unknown), settable)
        )
    for name, field in known.items():
        if (
            field.required
            and name not in trees
            and name not in given
            and not is_misspelling(name, map(get_key_name, unknown))
        ):
            repair = f"add {name}, {field.wanted.words}"
            findings.add("missing", f"{subject} needs {name}.", path, at, repair=repair)
    refusal = None
    if len(findings.problems) == before:
        made, refusal = _try_construct(cls, {**given, **values})
        if refusal is None:
            return made
    _locate_field_errors(cls, values, given, trees, path, findings)
    if refusal and len(findings.problems) == before:
        findings.add("value", refusal, path, at)
    return None


def _find_replacements(cls: type, unknown: Iterable[str], settable: Collection[str]) -> Mapping[str, str]:
    """Return what to do about names that are not fields of a declaration."""
    arguments = {
        name: f"options: {{{name}: …}}, if it is an argument of the network; {suggest(name, settable)}"
        for name in unknown
        if "options" in settable and name not in get_fields(cls) and not find_close_matches(name, settable)
    }
    return {**arguments, **UNSUPPORTED_KEYS, **getattr(cls, "instead", {})}


def _try_construct(cls: type[T], values: Mapping[str, Any]) -> tuple[T | None, str | None]:
    try:
        return cls(**values), None
    except (ValueError, TypeError) as error:
        return None, _format_error(error)


def _format_error(error: Exception) -> str:
    return f"{error.args[0] if error.args else type(error).__name__}."


def _locate_field_errors(
    cls: type,
    values: Mapping[str, Any],
    given: Mapping[str, Any],
    trees: Mapping[str, Tree],
    path: str,
    to: Diagnostics,
) -> None:
    """Put down which fields are to blame: those that are refused by their own rules, or without any other field."""
    before = len(to.problems)
    known = get_fields(cls)
    for name, value in values.items():
        attribute = known[name].attribute
        for where, tree, said in _iter_field_errors(attribute, value, trees[name], join_path(path, name)):
            to.add("value", said, where, tree, repair=_suggest_value(attribute, tree))
    required = {name: value for name, value in {**given, **values}.items() if known[name].required}
    if len(to.problems) > before or _try_construct(cls, required)[1]:
        return
    for name in (name for name in values if name not in required):
        message = _try_construct(cls, required | {name: values[name]})[1]
        if message is not None:
            to.add("value", message, join_path(path, name), trees[name])


def _iter_field_errors(
    attribute: attrs.Attribute[Any], value: Any, tree: Tree, path: str
) -> Iterator[tuple[str, Tree, str]]:
    """What a field's own converter and validator say, at the entry of a list that they say it of."""
    converter: Any = attribute.converter
    if isinstance(converter, getattr(attrs, "Converter", ())):
        # It asks for more than the value; the constructor has what it wants.
        return
    try:
        value = converter(value) if converter else value
    except (ValueError, TypeError) as error:
        yield path, tree, _format_error(error)
        return
    message = _find_invalid_reason(attribute, value)
    if message is None:
        return
    entries = tree.entries if isinstance(tree, text.SequenceNode) and isinstance(value, tuple) else ()
    # A rule about entries is broken by one alone as well, and says which; a rule about the list says nothing of it.
    alone = [
        (index, _find_invalid_reason(attribute, (entry,)) or "") for index, entry in enumerate(value if entries else ())
    ]
    wrong = [(index, said) for index, said in alone if said.endswith(f"(got {value[index]!r}).")]
    yield from ((f"{path}[{index}]", entries[index], said) for index, said in wrong)
    if not wrong:
        yield path, tree, message


def _find_invalid_reason(attribute: attrs.Attribute[Any], value: Any) -> str | None:
    if attribute.validator is None:
        return None
    try:
        attribute.validator(None, attribute, value)
    except (ValueError, TypeError) as error:
        return _format_error(error)
    except AttributeError:
        # A validator that looks at the other fields; the constructor asks it again.
        return None
    return None


def _suggest_value(attribute: attrs.Attribute[Any], tree: Tree) -> str | None:
    names = [name for name in getattr(attribute.validator, "known", ()) if isinstance(name, str)]
    written = getattr(tree, "value", None)
    return suggest(written, names) if isinstance(written, str) and is_misspelling(written, names) else None
