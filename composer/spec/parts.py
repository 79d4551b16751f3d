"""Resolve the name and fields of a part in a spec."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, TypeVar, get_type_hints

import attrs
from attrs import frozen

from composer.errors import find_close_matches, suggest
from composer.parts import KINDS, Part, UnusableError
from composer.spec import yaml as text
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
from composer.spec.yaml import ScalarNode, Tree, describe_value

Parts = Mapping[str, type[Part]]


_MIN_SIMILARITY = 0.75
"""How alike names of networks are that one may be written for the other: there are more than a thousand."""


def get_part_kind(cls: type[Part]) -> str | None:
    """What the field calls a class of parts: encoder, neck, decoder, head."""
    return next((kind for kind, base in KINDS.items() if issubclass(cls, base)), None)


def suggest_part(name: str, kind: str | None, parts: Parts) -> str:
    """What to write instead of a name that no part has. Names that are offered are known, as far as anybody can know.

    That leaves out sources whose names are not listed anywhere, but where the source itself is misspelled.
    """
    from composer.adapters.timm.catalogue import strip_hub  # not at the top: a check that finds every name needs none

    name = strip_hub(name)
    moved = _find_moved_name(name, parts)
    if moved is not None:
        return f"did you mean {moved}?"
    fitting = [key for key in parts if kind in (None, _find_kind_by_name(key, parts))]
    own = [key for key in fitting if "/" not in key]
    sources = list(dict.fromkeys(key.partition("/")[0] for key in fitting if "/" in key))
    source, slash, rest = name.partition("/")
    if slash and sources:
        found = _suggest_with_source(source, rest, fitting)
    elif name in sources:
        return f"name one of its parts: {name}/NAME"
    else:
        found = [] if find_close_matches(name, own) else _suggest_any_source(name, fitting)
    if found:
        return f"did you mean {' or '.join(found)}?"
    if slash and sources and not find_close_matches(rest, own):
        return _describe_listing(source, kind, sources)
    if sources and not own:
        return f"write its source before it: {', '.join(f'{one}/NAME' for one in sources)}"
    return suggest(rest if slash else name, own)


def _suggest_with_source(source: str, rest: str, fitting: list[str]) -> list[str]:
    """Names of this source that are much like `rest`, then those of others that are `rest` itself."""
    sources = {key.partition("/")[0] for key in fitting if "/" in key}
    meant = find_close_matches(source, sources)[:1]
    named = _group_by_name(rest, fitting)
    keys = [key for one in find_close_matches(rest, named) for key in named[one]]
    near = [key for key in keys if key.partition("/")[0] in meant]
    unlisted = [f"{one}/{rest}" for one in meant if one != source and f"{one}/" in fitting and one != "timm"]
    same = [key for key in named.get(rest, ()) if key not in near]
    return [*near, *unlisted, *same][:3]


def _suggest_any_source(name: str, fitting: list[str]) -> list[str]:
    """Names of any source that are like this one."""
    named = _group_by_name(name, fitting)
    return [key for one in find_close_matches(name, named, _MIN_SIMILARITY) for key in named[one]][:3]


def _group_by_name(name: str, fitting: Iterable[str]) -> dict[str, list[str]]:
    """The parts of sources by their names there: those that are listed, and the networks that the catalogue knows."""
    from composer.adapters.timm.catalogue import list_networks

    named: dict[str, list[str]] = {}
    if "timm/" in fitting:
        network, dot, tag = name.partition(".")
        for one in list_networks():
            named[name if one == network and dot and tag else one] = [f"timm/{name if one == network else one}"]
    for key in fitting:
        _, slash, one = key.partition("/")
        if slash and one:
            named.setdefault(one, []).append(key)
    return named


def _describe_listing(source: str, kind: str | None, sources: list[str]) -> str:
    """Where the names of a source are listed; or which sources there are."""
    if source in sources:
        return f"python -m composer list {kind or 'encoder'}s '{source}/*' shows what there is"
    return f"known sources: {', '.join(sources)}"


def _find_moved_name(name: str, parts: Parts) -> str | None:
    """The name that a part has here where a library's own name for it begins otherwise."""
    for key in (key for key in parts if key.startswith(f"{name.partition('/')[0]}/")):
        with suppress(UnusableError):
            for known, here in parts[key].renamed_prefixes.items():
                if name.startswith(known):
                    return here + name.removeprefix(known)
    return None


def _find_kind_by_name(name: str, parts: Parts) -> str | None:
    """The kind of a part, if it can be had."""
    with suppress(UnusableError):
        return get_part_kind(parts[name])
    return None


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


MAX_PART_NAME_LENGTH = 4096
"""How long the name of a part may be: some hold the path of a folder, and no path is longer."""


_SECTION_NAMES = {"encoder": "encoder", "neck": "necks", "decoder": "decoder", "head": "head"}


def resolve_part(tree: Tree, path: str, kind: str | None, parts: Parts, findings: Diagnostics) -> Part | None:
    """The part that `tree` describes: `Name` or `{Name: {field: value}}`. `kind` is what the place takes, if one only.

    Otherwise None, and in `findings` all that is wrong with it.
    """
    findings.mark(path, tree)
    spelled = _parse_name_and_fields(tree, path, findings)
    if spelled is None:
        return None
    name, fields = spelled
    if len(name) > MAX_PART_NAME_LENGTH:
        message = f"{name[:64]!r}… is no part: a name has at most {MAX_PART_NAME_LENGTH:,} letters."
        shown_by = f"python -m composer list {kind or 'decoder'}s"
        findings.add("limit", message, path, tree, repair=f"name a part that {shown_by} shows")
        return None
    try:
        found = _lookup_part(name, parts)
    except UnusableError as error:
        findings.add("install", str(error), path, tree, repair=error.repair)
        return None
    reason, instead = _explain_unsupported(name, found and found[0], parts)
    if reason:
        findings.add("part", f"{name} cannot be had: {reason}.", path, tree, got=name, repair=instead)
        return None
    if found is None:
        message = f"there is no {kind or 'part'} {name!r}."
        findings.add("part", message, path, tree, got=name, repair=suggest_part(name, kind, parts))
        return None
    cls, given = found
    actual = get_part_kind(cls)
    misplaced = kind is not None and actual != kind
    if misplaced:
        message = f"{path} takes {_format_kind(kind)}, and {name} is {_format_kind(actual)}."
        repair = f"put it under {_SECTION_NAMES[actual]}" if actual else None
        findings.add("kind", message, path, tree, expected=_format_kind(kind), got=_format_kind(actual), repair=repair)
    made = construct(cls, name, fields, path, tree, findings, given)
    return None if misplaced else made


def _parse_name_and_fields(tree: Tree, path: str, findings: Diagnostics) -> tuple[str, text.MappingNode | None] | None:
    if isinstance(tree, ScalarNode) and isinstance(tree.value, str):
        return tree.value, None
    expected = "the name of a part, or {Name: {field: value}}"
    repair = None
    if isinstance(tree, text.MappingNode) and len(tree.pairs) == 1:
        key, fields = tree.pairs[0]
        if isinstance(fields, text.MappingNode):
            return get_key_name(key), fields
        if isinstance(fields, ScalarNode) and fields.value is None:
            return get_key_name(key), None
        tree, expected = fields, f"the fields of {get_key_name(key)} as a mapping"
    elif isinstance(tree, ScalarNode) and tree.value is None:
        repair = f"name the part, or leave {path} out"
    elif isinstance(tree, text.MappingNode) and tree.pairs:
        first = get_key_name(tree.pairs[0][0])
        repair = f"indent the fields under {first}: {{{first}: {{field: value}}}}"
    got = _describe_names(tree) or describe_value(tree)
    findings.add("type", f"expected {expected} (got {got}).", path, tree, expected=expected, got=got, repair=repair)
    return None


def _describe_names(tree: Tree) -> str | None:
    names = [get_key_name(key) for key, _ in tree.pairs] if isinstance(tree, text.MappingNode) else []
    return f"{len(names)} names: {', '.join(names[:4])}{', …' if len(names) > 4 else ''}" if len(names) > 1 else None


def _lookup_part(name: str, parts: Parts) -> tuple[type[Part], dict[str, Any]] | None:
    source, slash, rest = name.partition("/")
    # The source comes first: that one is built in is known at once, and that a network of it is not would be looked up.
    cls = (parts.get(f"{source}/") if slash else None) or parts.get(name)
    if cls is None or not slash:
        return None if cls is None else (cls, {})
    # What others of this source have is no field of this one.
    absent = [] if cls.names is None else [field for field in get_fields(cls) if field not in cls.defaults[rest]]
    return cls, {**dict.fromkeys(absent), "name": rest}


def _explain_unsupported(name: str, found: type[Part] | None, parts: Parts) -> tuple[str, str]:
    """Why a name that its source knows, or is thought to, cannot be had, and what can; nothing, of any other name."""
    source, slash, rest = name.partition("/")
    for cls in [found] if found else _iter_source_parts(source, parts) if slash else ():
        if rest in cls.refused:
            reason, instead = cls.refused[rest]
            return reason, f"use {instead if '/' in instead else f'{source}/{instead}'}"
        for pattern, reason in cls.outside.items():
            if fnmatchcase(rest.lower(), pattern) and name not in parts:
                return reason, f"choose another, of those that python -m composer list encoders '{source}/*' shows"
    return "", ""


def _iter_source_parts(source: str, parts: Parts) -> Iterator[type[Part]]:
    """The parts of a source, which a name may be of that is none of theirs."""
    for key in parts:
        if key.startswith(f"{source}/"):
            with suppress(UnusableError):
                yield parts[key]


def _format_kind(kind: str | None) -> str:
    return "of no known kind" if kind is None else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
