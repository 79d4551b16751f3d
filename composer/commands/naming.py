"""`list encoders PATTERN`: names of encoders, of every source that a pattern may mean. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterable

from composer.catalogue import get_catalogue_version
from composer.catalogue import list_networks as catalogued
from composer.commands.listing import describe_installation, is_match, list_parts, list_unsupported_names
from composer.commands.terminal import UsageError, log
from composer.libraries import LIBRARIES, get_adapter
from composer.parts import KINDS

UNLISTED_SOURCES = {"timm/NAME": "timm", "transformers/NAME": "transformers"}
"""Sources of more names than composer has a table of."""

EXAMPLE_PATTERN = "'timm/*resnet*'"


def list_encoder_names(pattern: str) -> list[str]:
    """The names of encoders that match `pattern`, as a spec writes them: `timm/resnet50`.

    Whether their libraries are installed, and which names cannot be had, is said on stderr. transformers is imported
    where the pattern may mean one of its names, because it alone knows them; of timm's there is a catalogue. Raises
    UsageError where nothing matches.
    """
    parts, unusable = list_parts("encoders")
    every = [
        name
        for part in parts
        for name in (_list_source_names(UNLISTED_SOURCES[part], pattern) if part in UNLISTED_SOURCES else [part])
    ]
    found = _filter_names(every, pattern)
    refused = {name: why for name, why in list_unsupported_names(parts).items() if is_match(name, pattern)}
    missing = [
        source
        for source in UNLISTED_SOURCES.values()
        if _has_possible_match(pattern, source) and not LIBRARIES[source].is_installed()
    ]
    broken = [why for name, why in unusable.items() if is_match(name, pattern)]
    if not found:
        raise UsageError("\n".join(broken) or _explain_no_match(pattern, refused, missing))
    sources = dict.fromkeys([*(name.partition("/")[0] for name in found), *missing])
    for source in sources:
        if source in LIBRARIES:
            log(describe_installation(source))
    for why in broken:
        log(why)
    if refused:
        log(f"cannot be had, and list encoders NAME says why: {', '.join(refused)}")
    return found


def _list_source_names(source: str, pattern: str) -> list[str]:
    """All names of a source that has no table, where the pattern may mean one of them and they can be known."""
    library = LIBRARIES[source]
    if not _has_possible_match(pattern, source):
        return []
    if source == "timm" and library.versions() in (None, f"timm-{get_catalogue_version()}"):
        return [f"timm/{name}" for name in catalogued()]
    return [f"{source}/{name}" for name in get_adapter(source).list_networks()] if library.is_installed() else []


def _has_possible_match(pattern: str, source: str) -> bool:
    """Whether a pattern may match a name of a source, as far as its beginning tells."""
    beginning = re.split(r"[*?\[]", pattern.lower(), maxsplit=1)[0]
    return beginning.startswith(f"{source}/") or (f"{source}/".startswith(beginning) and beginning != pattern.lower())


def _filter_names(names: Iterable[str], pattern: str) -> list[str]:
    return [name for name in names if is_match(name, pattern)]


def _explain_no_match(pattern: str, refused: dict[str, str], missing: list[str]) -> str:
    """Why a pattern matches no encoder, and what does."""
    if refused:
        return "\n".join(f"{name}: {why}" for name, why in refused.items())
    if missing:
        return f"no encoder that is known is named {pattern!r}; {', '.join(map(describe_installation, missing))}"
    others = [f"{kind}s" for kind in KINDS if kind != "encoder" and _filter_names(list_parts(f"{kind}s")[0], pattern)]
    if others:
        return f"no encoder is named {pattern!r}, but {others[0]} are: python -m composer list {others[0]} {pattern!r}"
    *first, last = dict.fromkeys(f"{name.partition('/')[0]}/" for name in list_parts("encoders")[0] if "/" in name)
    return (
        f"no encoder is named {pattern!r}; names begin with {', '.join(first)} or {last}, "
        f"and a pattern has stars, in quotes: {EXAMPLE_PATTERN}"
    )
