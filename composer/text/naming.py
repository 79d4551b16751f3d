"""Which part a name means, and whether it belongs where it stands. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any

from composer.parts import Part, UnusableError
from composer.text import tree as text
from composer.text.declaring import construct, get_fields
from composer.text.findings import Diagnostics, get_key_name
from composer.text.suggesting import Parts, get_part_kind, suggest_part
from composer.text.tree import ScalarNode, Tree, describe_value

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
