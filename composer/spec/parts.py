"""Resolve the name and fields of a part in a spec."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import cache, partial
from typing import Any, TypeVar, get_type_hints

import attrs
from attrs import frozen

from composer.errors import find_close_matches, suggest
from composer.parts import KINDS, Part
from composer.parts.registry import UnusableError
from composer.spec.schema import (
    UNSUPPORTED_KEYS,
    Diagnostics,
    Schema,
    build_schema,
    get_key_name,
    is_misspelling,
    join_path,
    parse_value,
)
from composer.spec.yaml import MappingNode, ScalarNode, SequenceNode, Tree

Parts = Mapping[str, type[Part]]

MAX_PART_NAME_LENGTH = 4096
"""Letters of a part's name: some contain the path of a folder, and no path is longer."""

_SECTION_NAMES = {"encoder": "encoder", "neck": "necks", "decoder": "decoder", "head": "head"}


def resolve_part(tree: Tree, path: str, kind: str | None, parts: Parts, findings: Diagnostics) -> Part | None:
    """Return the part that `tree` describes: `Name` or `{Name: {field: value}}`.

    `kind` is the only kind of part allowed here, or None for any. Reports all that is wrong, and then returns None.
    """
    findings.record(path, tree)
    spelled = _parse_name_and_fields(tree, path, findings)
    if spelled is None:
        return None
    name, fields = spelled
    if len(name) > MAX_PART_NAME_LENGTH:
        message = f"invalid part name {name[:64]!r}…: a name has at most {MAX_PART_NAME_LENGTH:,} letters."
        fix = f"name a part that python -m composer list {kind or 'decoder'}s shows"
        findings.add("limit", message, path, tree, fix=fix)
        return None
    try:
        cls = _find_class(name, parts)
    except UnusableError as error:
        findings.add("install", str(error), path, tree, fix=error.fix)
        return None
    reason, instead = _explain_unsupported(name, cls, parts)
    if reason or cls is None:
        message = f"{name} cannot be had: {reason}." if reason else f"there is no {kind or 'part'} {name!r}."
        findings.add("part", message, path, tree, got=name, fix=instead or suggest_part(name, kind, parts))
        return None
    actual = _get_kind(cls)
    misplaced = kind is not None and actual != kind
    if misplaced:
        want, got = _format_kind(kind), _format_kind(actual)
        message = f"{path} takes {want}, and {name} is {got}."
        section = f"put it under {_SECTION_NAMES[actual]}" if actual else None
        findings.add("part", message, path, tree, expected=want, got=got, fix=section)
    part = construct(cls, name, fields, path, tree, findings, _get_fixed_fields(name, cls))
    return None if misplaced else part


def _parse_name_and_fields(tree: Tree, path: str, findings: Diagnostics) -> tuple[str, MappingNode | None] | None:
    if isinstance(tree, ScalarNode) and isinstance(tree.value, str):
        return tree.value, None
    expected, fix, got = "the name of a part, or {Name: {field: value}}", None, None
    if isinstance(tree, MappingNode) and tree.pairs:
        key, fields = tree.pairs[0]
        first = get_key_name(key)
        if len(tree.pairs) > 1:
            names = list(tree.by_name)
            got = f"{len(names)} names: {', '.join(names[:4])}{', …' if len(names) > 4 else ''}"
            fix = f"indent the fields under {first}: {{{first}: {{field: value}}}}"
        elif isinstance(fields, MappingNode):
            return first, fields
        elif isinstance(fields, ScalarNode) and fields.value is None:
            return first, None
        else:
            tree, expected = fields, f"the fields of {first} as a mapping"
    elif isinstance(tree, ScalarNode) and tree.value is None:
        fix = f"name the part, or leave {path} out"
    findings.report_mismatch(expected, path, tree, fix, got)
    return None


def _find_class(name: str, parts: Parts) -> type[Part] | None:
    source, slash, _ = name.partition("/")
    # The whole source comes first: looking up one of its networks is slower.
    return (parts.get(f"{source}/") if slash else None) or parts.get(name)


def _get_fixed_fields(name: str, cls: type[Part]) -> dict[str, Any]:
    """Return the fields that the name of a part sets, with None for those that it does not have."""
    _, slash, rest = name.partition("/")
    if not slash:
        return {}
    absent = [] if cls.names is None else [field for field in get_fields(cls) if field not in cls.defaults[rest]]
    return {**dict.fromkeys(absent), "name": rest}


def _explain_unsupported(name: str, cls: type[Part] | None, parts: Parts) -> tuple[str, str]:
    """Return why a known name is not supported and what to use instead, or two empty strings."""
    source, slash, rest = name.partition("/")
    for owner in [cls] if cls else _iter_source_parts(source, parts) if slash else ():
        if rest in owner.refused:
            reason, instead = owner.refused[rest]
            return reason, f"use {instead if '/' in instead else f'{source}/{instead}'}"
        for pattern, reason in owner.outside.items():
            if fnmatchcase(rest.lower(), pattern) and name not in parts:
                return reason, f"choose another, of those that python -m composer list encoders '{source}/*' shows"
    return "", ""


def _iter_source_parts(source: str, parts: Parts) -> Iterator[type[Part]]:
    for key in parts:
        if key.startswith(f"{source}/"):
            with suppress(UnusableError):
                yield parts[key]


def _get_kind(cls: type[Part]) -> str | None:
    return next((kind for kind, base in KINDS.items() if issubclass(cls, base)), None)


def _format_kind(kind: str | None) -> str:
    return "of no known kind" if kind is None else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


_MIN_SIMILARITY = 0.75
"""The similarity at which a network without its source is suggested: there are more than a thousand."""


def suggest_part(name: str, kind: str | None, parts: Parts) -> str:
    """Return what to write instead of an unknown name: names that exist, or where they are listed.

    Sources whose names are not listed anywhere are suggested only where the source itself is misspelled.
    """
    from composer.adapters.timm.catalogue import strip_hub  # not at the top: only an unknown name needs it

    name = strip_hub(name)
    source, slash, rest = name.partition("/")
    moved = _find_moved_name(name, source, parts)
    if moved is not None:
        return f"did you mean {moved}?"
    keys = [key for key in parts if kind is None or _has_kind(key, kind, parts)]
    own = [key for key in keys if "/" not in key]
    sources = list(dict.fromkeys(key.partition("/")[0] for key in keys if "/" in key))
    if name in sources:
        return f"name one of its parts: {name}/NAME"
    matches: list[str] = []
    if slash and sources:
        matches = _match_with_source(source, rest, keys)
    elif not find_close_matches(name, own):
        named = _group_by_name(name, keys)
        matches = [key for match in find_close_matches(name, named, _MIN_SIMILARITY) for key in named[match]][:3]
    if matches:
        return f"did you mean {' or '.join(matches)}?"
    if slash and sources and not find_close_matches(rest, own):
        if source in sources:
            return f"python -m composer list {kind or 'encoder'}s '{source}/*' shows what there is"
        return f"known sources: {', '.join(sources)}"
    if sources and not own:
        return f"write its source before it: {', '.join(f'{source}/NAME' for source in sources)}"
    return suggest(rest if slash else name, own)


def _match_with_source(source: str, rest: str, keys: list[str]) -> list[str]:
    """Return names of this source that are similar to `rest`, then those of other sources that equal it."""
    meant = find_close_matches(source, {key.partition("/")[0] for key in keys if "/" in key})[:1]
    named = _group_by_name(rest, keys)
    near = [key for match in find_close_matches(rest, named) for key in named[match] if key.partition("/")[0] in meant]
    unlisted = [f"{one}/{rest}" for one in meant if one not in (source, "timm") and f"{one}/" in keys]
    return [*near, *unlisted, *(key for key in named.get(rest, ()) if key not in near)][:3]


def _group_by_name(name: str, keys: Iterable[str]) -> dict[str, list[str]]:
    """Return the parts of all sources by their names there, with the networks in timm's catalogue.

    A network whose name `name` extends by a tag of weights is listed with that tag.
    """
    from composer.adapters.timm.catalogue import list_networks

    named: dict[str, list[str]] = {}
    if "timm/" in keys:
        network, _, tag = name.partition(".")
        for listed in list_networks():
            spelled = name if listed == network else listed
            named[spelled if tag else listed] = [f"timm/{spelled}"]
    for key in keys:
        _, _, rest = key.partition("/")
        if rest:
            named.setdefault(rest, []).append(key)
    return named


def _find_moved_name(name: str, source: str, parts: Parts) -> str | None:
    """Return the name that a part has here, if its library's own name has another prefix."""
    for cls in _iter_source_parts(source, parts):
        for known, here in cls.renamed_prefixes.items():
            if name.startswith(known):
                return here + name.removeprefix(known)
    return None


def _has_kind(name: str, kind: str, parts: Parts) -> bool:
    with suppress(UnusableError):
        return _get_kind(parts[name]) == kind
    return False


T = TypeVar("T")


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
    findings: Diagnostics,
    given: Mapping[str, Any] | None = None,
) -> T | None:
    """Construct a declaration from `fields`, and from `given`, which a spec cannot set.

    `subject` names it in messages, and `at` is its position. Reports the problems of each field, and then returns None.
    """
    before = len(findings.problems)
    given = given or {}
    known = get_fields(cls)
    settable = known.keys() - given.keys()
    fields = fields or MappingNode((), at.line, at.column)
    trees = {name: tree for name, tree in fields.by_name.items() if name in settable}
    values: dict[str, Any] = {}
    for name, tree in trees.items():
        count = len(findings.problems)
        value = parse_value(known[name].wanted, tree, join_path(path, name), findings)
        if len(findings.problems) == count:
            values[name] = value
    unknown: list[str] = []
    if len(trees) < len(fields.pairs):
        instead = partial(_find_replacement, cls, settable)
        unknown = findings.report_unknown(subject, "field", fields, settable, path, instead=instead)
    for name, field in known.items():
        if field.required and name in settable and name not in trees:
            fix = f"add {name}, {field.wanted.words}"
            findings.report_missing(name, unknown, f"{subject} needs {name}.", path, at, fix)
    message = None
    if len(findings.problems) == before:
        declaration, message = _try_call(cls, **given, **values)
        if message is None:
            return declaration
    _locate_field_errors(cls, values, given, trees, path, findings)
    if message and len(findings.problems) == before:
        findings.add("value", message, path, at)
    return None


def _find_replacement(cls: type, settable: Collection[str], name: str) -> str | None:
    """Return the fix for a name that is not a field of a declaration, if it is not a misspelling."""
    fix = getattr(cls, "instead", {}).get(name) or UNSUPPORTED_KEYS.get(name)
    if fix or "options" not in settable or name in get_fields(cls) or find_close_matches(name, settable):
        return fix
    return f"options: {{{name}: …}}, if it is an argument of the network; {suggest(name, settable)}"


def _try_call(function: Callable[..., T], /, *args: Any, **kwargs: Any) -> tuple[T | None, str | None]:
    """Return the result of a call and no message, or the message of the ValueError or TypeError it raised."""
    try:
        return function(*args, **kwargs), None
    except (ValueError, TypeError) as error:
        return None, f"{error.args[0] if error.args else type(error).__name__}."


def _locate_field_errors(
    cls: type,
    values: Mapping[str, Any],
    given: Mapping[str, Any],
    trees: Mapping[str, Tree],
    path: str,
    findings: Diagnostics,
) -> None:
    """Report the fields that their own rules reject, or else those that are rejected without any other field."""
    before = len(findings.problems)
    known = get_fields(cls)
    for name, value in values.items():
        attribute = known[name].attribute
        for where, tree, message in _iter_field_errors(attribute, value, trees[name], join_path(path, name)):
            findings.add("value", message, where, tree, fix=_suggest_value(attribute, tree))
    required = {name: value for name, value in {**given, **values}.items() if known[name].required}
    if len(findings.problems) > before or _try_call(cls, **required)[1]:
        return
    for name, value in values.items():
        refusal = None if name in required else _try_call(cls, **required, **{name: value})[1]
        if refusal is not None:
            findings.add("value", refusal, join_path(path, name), trees[name])


def _iter_field_errors(
    attribute: attrs.Attribute[Any], value: Any, tree: Tree, path: str
) -> Iterator[tuple[str, Tree, str]]:
    """Yield what a field's converter and validator reject: the entries of a list, or else the whole value."""
    converter: Any = attribute.converter
    if isinstance(converter, getattr(attrs, "Converter", ())):
        # It takes more than the value, which only the constructor has.
        return
    if converter:
        value, message = _try_call(converter, value)
        if message is not None:
            yield path, tree, message
            return
    message = _find_invalid_reason(attribute, value)
    if message is None:
        return
    wrong = []
    if isinstance(tree, SequenceNode) and isinstance(value, tuple):
        # A rule about entries rejects one alone too, and quotes it; a rule about the list does not quote it.
        reasons = [_find_invalid_reason(attribute, (entry,)) or "" for entry in value]
        wrong = [
            (f"{path}[{index}]", tree.entries[index], reason)
            for index, reason in enumerate(reasons)
            if reason.endswith(f"(got {value[index]!r}).")
        ]
    yield from wrong or [(path, tree, message)]


def _find_invalid_reason(attribute: attrs.Attribute[Any], value: Any) -> str | None:
    # AttributeError: the validator reads other fields of the instance; the constructor calls it again.
    with suppress(AttributeError):
        return _try_call(attribute.validator, None, attribute, value)[1] if attribute.validator else None
    return None


def _suggest_value(attribute: attrs.Attribute[Any], tree: Tree) -> str | None:
    names = [name for name in getattr(attribute.validator, "known", ()) if isinstance(name, str)]
    value = getattr(tree, "value", None)
    return suggest(value, names) if isinstance(value, str) and is_misspelling(value, names) else None
