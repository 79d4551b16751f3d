"""From a mapping of fields to a declaration: a frozen class, or all that is wrong with its fields. No torch here."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, TypeVar, get_type_hints

import attrs
from attrs import frozen

from composer.problem import close, nearest
from composer.text import tree as text
from composer.text.annotations import wanted
from composer.text.findings import NOT_IN_A_MODEL, Findings, joined, misspelled, named
from composer.text.tree import Tree
from composer.text.wanted import Wanted, take

T = TypeVar("T")


@frozen
class Field:
    """What a field takes, and who checks it."""

    attribute: attrs.Attribute[Any]
    wanted: Wanted
    required: bool


def fields_of(cls: Any) -> Mapping[str, Field]:
    """The fields of a declaration as a text may name them."""
    return _fields_of(cls)


@cache
def _fields_of(cls: Any) -> Mapping[str, Field]:
    hints = get_type_hints(cls)
    fields = [attribute for attribute in attrs.fields(cls) if attribute.init]
    wants = [wanted(hints.get(attribute.name)) for attribute in fields]
    return {
        attribute.alias or attribute.name: Field(attribute, want, required=attribute.default is attrs.NOTHING)
        for attribute, want in zip(fields, wants, strict=True)
    }


def declared(
    cls: type[T],
    subject: str,
    fields: text.Mapping | None,
    path: str,
    at: Tree,
    findings: Findings,
    given: Mapping[str, Any] | None = None,
) -> T | None:
    """The declaration that `fields` and `given` make. Otherwise None, and every field's problem in `findings`.

    `subject` names it in a sentence, and `at` is where it stands. A text cannot set what is `given`.
    """
    before = len(findings.problems)
    given = given or {}
    known = fields_of(cls)
    values: dict[str, Any] = {}
    trees: dict[str, Tree] = {}
    unknown = []
    for key, tree in fields.pairs if fields else ():
        name = named(key)
        if name not in known or name in given:
            unknown.append(key)
            continue
        trees[name] = tree
        count = len(findings.problems)
        value = take(known[name].wanted, tree, joined(path, name), findings)
        if len(findings.problems) == count:
            values[name] = value
    if unknown:
        settable = known.keys() - given.keys()
        findings.keys(subject, "field", unknown, settable, path, _instead(cls, map(named, unknown), settable))
    for name, field in known.items():
        if field.required and name not in trees and name not in given and not misspelled(name, map(named, unknown)):
            repair = f"add {name}, {field.wanted.words}"
            findings.add("missing", f"{subject} needs {name}.", path, at, repair=repair)
    refusal = None
    if len(findings.problems) == before:
        made, refusal = _made(cls, {**given, **values})
        if refusal is None:
            return made
    _blame(cls, values, given, trees, path, findings)
    if refusal and len(findings.problems) == before:
        findings.add("value", refusal, path, at)
    return None


def _instead(cls: type, unknown: Iterable[str], settable: Collection[str]) -> Mapping[str, str]:
    """Return what to do about names that are not fields of a declaration."""
    arguments = {
        name: f"options: {{{name}: …}}, if it is an argument of the network; {nearest(name, settable)}"
        for name in unknown
        if "options" in settable and name not in fields_of(cls) and not close(name, settable)
    }
    return {**arguments, **NOT_IN_A_MODEL, **getattr(cls, "instead", {})}


def _made(cls: type[T], values: Mapping[str, Any]) -> tuple[T | None, str | None]:
    try:
        return cls(**values), None
    except (ValueError, TypeError) as error:
        return None, _sentence(error)


def _sentence(error: Exception) -> str:
    return f"{error.args[0] if error.args else type(error).__name__}."


def _blame(
    cls: type, values: Mapping[str, Any], given: Mapping[str, Any], trees: Mapping[str, Tree], path: str, to: Findings
) -> None:
    """Put down which fields are to blame: those that are refused by their own rules, or without any other field."""
    before = len(to.problems)
    known = fields_of(cls)
    for name, value in values.items():
        attribute = known[name].attribute
        for where, tree, said in _refused(attribute, value, trees[name], joined(path, name)):
            to.add("value", said, where, tree, repair=_near(attribute, tree))
    required = {name: value for name, value in {**given, **values}.items() if known[name].required}
    if len(to.problems) > before or _made(cls, required)[1]:
        return
    for name in (name for name in values if name not in required):
        message = _made(cls, required | {name: values[name]})[1]
        if message is not None:
            to.add("value", message, joined(path, name), trees[name])


def _refused(attribute: attrs.Attribute[Any], value: Any, tree: Tree, path: str) -> Iterator[tuple[str, Tree, str]]:
    """What a field's own converter and validator say, at the entry of a list that they say it of."""
    converter: Any = attribute.converter
    if isinstance(converter, getattr(attrs, "Converter", ())):
        # It asks for more than the value; the constructor has what it wants.
        return
    try:
        value = converter(value) if converter else value
    except (ValueError, TypeError) as error:
        yield path, tree, _sentence(error)
        return
    message = _invalid(attribute, value)
    if message is None:
        return
    entries = tree.entries if isinstance(tree, text.Sequence) and isinstance(value, tuple) else ()
    # A rule about entries is broken by one alone as well, and says which; a rule about the list says nothing of it.
    alone = [(index, _invalid(attribute, (entry,)) or "") for index, entry in enumerate(value if entries else ())]
    wrong = [(index, said) for index, said in alone if said.endswith(f"(got {value[index]!r}).")]
    yield from ((f"{path}[{index}]", entries[index], said) for index, said in wrong)
    if not wrong:
        yield path, tree, message


def _invalid(attribute: attrs.Attribute[Any], value: Any) -> str | None:
    if attribute.validator is None:
        return None
    try:
        attribute.validator(None, attribute, value)
    except (ValueError, TypeError) as error:
        return _sentence(error)
    except AttributeError:
        # A validator that looks at the other fields; the constructor asks it again.
        return None
    return None


def _near(attribute: attrs.Attribute[Any], tree: Tree) -> str | None:
    names = [name for name in getattr(attribute.validator, "known", ()) if isinstance(name, str)]
    written = getattr(tree, "value", None)
    return nearest(written, names) if isinstance(written, str) and misspelled(written, names) else None
