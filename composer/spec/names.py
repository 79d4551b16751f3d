"""Find the part that a name in a spec means, and what to write instead of an unknown name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any

from composer.errors import find_close_matches, suggest
from composer.parts import KINDS, Part
from composer.parts.registry import UnusableError
from composer.spec.schema import Diagnostics, get_fields
from composer.spec.yaml import Tree

Parts = Mapping[str, type[Part]]

MAX_PART_NAME_LENGTH = 4096
"""Letters of a part's name: some contain the path of a folder, and no path is longer."""


def find_class(
    name: str, kind: str | None, parts: Parts, path: str, at: Tree, diagnostics: Diagnostics
) -> type[Part] | None:
    """Return the class of a part. Reports an unknown name, and a part of another kind than the given one."""
    if len(name) > MAX_PART_NAME_LENGTH:
        message = f"invalid part name {name[:64]!r}…: a name has at most {MAX_PART_NAME_LENGTH:,} letters."
        fix = f"name a part that python -m composer list {kind or 'decoder'}s shows"
        diagnostics.add("limit", message, path, at, fix)
        return None
    source, slash, _ = name.partition("/")
    try:
        # The whole source comes first: looking up one of its networks is slower.
        cls = (parts.get(f"{source}/") if slash else None) or parts.get(name)
    except UnusableError as error:
        diagnostics.add("install", str(error), path, at, error.fix)
        return None
    if cls is None:
        message, fix = _explain_unknown_name(name, kind, parts)
        diagnostics.add("part", message, path, at, fix, got=name)
    elif kind is not None and not issubclass(cls, KINDS[kind]):
        actual = next((one for one, base in KINDS.items() if issubclass(cls, base)), None)
        want, got = _add_article(kind), "of no known kind" if actual is None else _add_article(actual)
        section = actual and f"put it under {'necks' if actual == 'neck' else actual}"
        message = f"{path} takes {want}, and {name} is {got}."
        diagnostics.add("part", message, path, at, section, expected=want, got=got)
    return cls


def get_fixed_fields(name: str, cls: type[Part]) -> dict[str, Any]:
    """Return the fields that the name of a part sets, with None for those that it does not have."""
    _, slash, rest = name.partition("/")
    if not slash:
        return {}
    absent = [] if cls.names is None else [field for field in get_fields(cls) if field not in cls.defaults[rest]]
    return {**dict.fromkeys(absent), "name": rest}


def _add_article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


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
