"""Resolve the name and fields of a part in a spec."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
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
from composer.spec.yaml import MappingNode, ScalarNode, Tree

Parts = Mapping[str, type[Part]]

MAX_PART_NAME_LENGTH = 4096
"""Letters of a part's name: some contain the path of a folder, and no path is longer."""


def resolve_part(tree: Tree, path: str, kind: str | None, parts: Parts, diagnostics: Diagnostics) -> Part | None:
    """Return the part that `tree` describes: `Name` or `{Name: {field: value}}`.

    `kind` is the only kind of part allowed here, or None for any. Reports all that is wrong, and then returns None.
    """
    diagnostics.record(path, tree)
    spelled = _parse_name_and_fields(tree, path, diagnostics)
    if spelled is None:
        return None
    name, fields = spelled
    if len(name) > MAX_PART_NAME_LENGTH:
        message = f"invalid part name {name[:64]!r}…: a name has at most {MAX_PART_NAME_LENGTH:,} letters."
        fix = f"name a part that python -m composer list {kind or 'decoder'}s shows"
        diagnostics.add("limit", message, path, tree, fix=fix)
        return None
    try:
        cls = _find_class(name, parts)
    except UnusableError as error:
        diagnostics.add("install", str(error), path, tree, fix=error.fix)
        return None
    if cls is None:
        message, fix = _explain_unknown_name(name, kind, parts)
        diagnostics.add("part", message, path, tree, got=name, fix=fix)
        return None
    actual = _get_kind(cls)
    misplaced = kind is not None and actual != kind
    if misplaced:
        want, got = _format_kind(kind), _format_kind(actual)
        message = f"{path} takes {want}, and {name} is {got}."
        section = f"put it under {'necks' if actual == 'neck' else actual}" if actual else None
        diagnostics.add("part", message, path, tree, expected=want, got=got, fix=section)
    part = construct(cls, name, fields, path, tree, diagnostics, _get_fixed_fields(name, cls))
    return None if misplaced else part


def _parse_name_and_fields(tree: Tree, path: str, diagnostics: Diagnostics) -> tuple[str, MappingNode | None] | None:
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
    diagnostics.report_mismatch(expected, path, tree, fix, got)
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


def _explain_unknown_name(name: str, kind: str | None, parts: Parts) -> tuple[str, str]:
    """Return a message on a name that no part has, and what to use instead."""
    source, _, rest = name.partition("/")
    for key in parts:
        if not key.startswith(f"{source}/"):
            continue
        with suppress(UnusableError):
            if rest in parts[key].refused:
                reason, instead = parts[key].refused[rest]
                return f"{name} cannot be had: {reason}.", f"use {instead if '/' in instead else f'{source}/{instead}'}"
            for pattern, reason in parts[key].outside.items():
                if fnmatchcase(rest.lower(), pattern):
                    fix = f"choose another, of those that python -m composer list encoders '{source}/*' shows"
                    return f"{name} cannot be had: {reason}.", fix
    return f"there is no {kind or 'part'} {name!r}.", suggest_part(name, kind, parts)


def _get_kind(cls: type[Part]) -> str | None:
    return next((kind for kind, base in KINDS.items() if issubclass(cls, base)), None)


def _format_kind(kind: str | None) -> str:
    return "of no known kind" if kind is None else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


_MIN_SIMILARITY = 0.75
"""The similarity at which a name of another source is suggested: there are more than a thousand networks."""


def suggest_part(name: str, kind: str | None, parts: Parts) -> str:
    """Return what to write instead of an unknown name: the nearest names of its source, or else of any source.

    Where there are none, say where names are listed.
    """
    from composer.adapters.timm.catalogue import strip_hub  # not at the top: only an unknown name needs it

    source, slash, rest = strip_hub(name).rpartition("/")
    keys = _list_known_names(kind, parts)
    sources = list(dict.fromkeys(key.partition("/")[0] for key in keys if "/" in key))
    if rest in sources and not slash:
        return f"name one of its parts: {rest}/NAME"
    (meant,) = find_close_matches(source, sources)[:1] or [source]
    if f"{meant}/" in keys:
        return f"did you mean {meant}/{rest}?"
    same_source = [key for key in keys if key.rpartition("/")[0] == meant]
    if matches := _match_last_segment(rest, same_source, 0.6) or _match_last_segment(rest, keys, _MIN_SIMILARITY):
        return f"did you mean {' or '.join(matches)}?"
    if slash and source in sources:
        return f"python -m composer list {kind or 'encoder'}s '{source}/*' shows what there is"
    if slash and sources:
        return f"known sources: {', '.join(sources)}"
    own = [key for key in keys if "/" not in key]
    if sources and not own:
        return f"write its source before it: {', '.join(f'{source}/NAME' for source in sources)}"
    return suggest(rest, own)


def _list_known_names(kind: str | None, parts: Parts) -> list[str]:
    """Return the names of the parts of a kind, with the networks in timm's catalogue."""
    from composer.adapters.timm.catalogue import list_networks

    names = []
    for key in parts:
        with suppress(UnusableError):
            if kind is None or issubclass(parts[key], KINDS[kind]):
                names += [f"timm/{network}" for network in list_networks()] if key == "timm/" else [key]
    return names


def _match_last_segment(name: str, keys: Iterable[str], cutoff: float) -> list[str]:
    """Return the three keys that end most like `name`. A network of timm may have a tag of weights, which is kept."""
    network, dot, tag = name.partition(".")
    ends: dict[str, list[str]] = {}
    for key in keys:
        if not dot or key.startswith("timm/"):
            ends.setdefault(key.rpartition("/")[2], []).append(key)
    close = find_close_matches(network, ends, cutoff)
    return [f"{key}{dot}{tag if end == network else ''}" for end in close for key in ends[end]][:3]


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
    unknown: list[str] = []
    if len(trees) < len(fields.pairs):
        instead = partial(_find_replacement, cls, settable)
        unknown = diagnostics.report_unknown(subject, "field", fields, settable, path, instead=instead)
    for name, field in known.items():
        if field.required and name in settable and name not in trees:
            fix = f"add {name}, {field.wanted.words}"
            diagnostics.report_missing(name, unknown, f"{subject} needs {name}.", path, at, fix)
    for name, value in values.items():
        attribute = known[name].attribute
        if message := _find_error(attribute, value):
            diagnostics.add("value", message, join_path(path, name), trees[name], fix=_suggest_value(attribute, value))
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
