"""What somebody may have meant by the name of a part that there is not. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

from composer.parts import KINDS, Part, UnusableError
from composer.problem import find_close_matches, suggest

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
    from composer.catalogue.picking import strip_hub  # not at the top: a check that finds every name needs none

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
    from composer.catalogue import list_networks

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
