"""`list encoders PATTERN`: names of encoders, of every source that a pattern may mean. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterable

from composer.catalogue import names as catalogued
from composer.catalogue import stamp
from composer.commands.listing import matches, parts_of, refused_among, whether_installed
from composer.commands.terminal import UsageError, note
from composer.libraries import LIBRARIES, adapter
from composer.parts import KINDS

OPEN = {"timm/NAME": "timm", "transformers/NAME": "transformers"}
"""Sources of more names than composer has a table of."""

EXAMPLE = "'timm/*resnet*'"


def encoder_names(pattern: str) -> list[str]:
    """The names of encoders that match `pattern`, as a spec writes them: `timm/resnet50`.

    Whether their libraries are installed, and which names cannot be had, is said on stderr. transformers is imported
    where the pattern may mean one of its names, because it alone knows them; of timm's there is a catalogue. Raises
    UsageError where nothing matches.
    """
    parts, unusable = parts_of("encoders")
    every = [name for part in parts for name in (_names_of(OPEN[part], pattern) if part in OPEN else [part])]
    found = _matching(every, pattern)
    refused = {name: why for name, why in refused_among(parts).items() if matches(name, pattern)}
    missing = [source for source in OPEN.values() if _may_mean(pattern, source) and not LIBRARIES[source].installed()]
    broken = [why for name, why in unusable.items() if matches(name, pattern)]
    if not found:
        raise UsageError("\n".join(broken) or _nothing(pattern, refused, missing))
    sources = dict.fromkeys([*(name.partition("/")[0] for name in found), *missing])
    for source in sources:
        if source in LIBRARIES:
            note(whether_installed(source))
    for why in broken:
        note(why)
    if refused:
        note(f"cannot be had, and list encoders NAME says why: {', '.join(refused)}")
    return found


def _names_of(source: str, pattern: str) -> list[str]:
    """All names of a source that has no table, where the pattern may mean one of them and they can be known."""
    library = LIBRARIES[source]
    if not _may_mean(pattern, source):
        return []
    if source == "timm" and library.versions() in (None, f"timm-{stamp()}"):
        return [f"timm/{name}" for name in catalogued()]
    return [f"{source}/{name}" for name in adapter(source).names()] if library.installed() else []


def _may_mean(pattern: str, source: str) -> bool:
    """Whether a pattern may match a name of a source, as far as its beginning tells."""
    beginning = re.split(r"[*?\[]", pattern.lower(), maxsplit=1)[0]
    return beginning.startswith(f"{source}/") or (f"{source}/".startswith(beginning) and beginning != pattern.lower())


def _matching(names: Iterable[str], pattern: str) -> list[str]:
    return [name for name in names if matches(name, pattern)]


def _nothing(pattern: str, refused: dict[str, str], missing: list[str]) -> str:
    """Why a pattern matches no encoder, and what does."""
    if refused:
        return "\n".join(f"{name}: {why}" for name, why in refused.items())
    if missing:
        return f"no encoder that is known is named {pattern!r}; {', '.join(map(whether_installed, missing))}"
    others = [f"{kind}s" for kind in KINDS if kind != "encoder" and _matching(parts_of(f"{kind}s")[0], pattern)]
    if others:
        return f"no encoder is named {pattern!r}, but {others[0]} are: python -m composer list {others[0]} {pattern!r}"
    *first, last = dict.fromkeys(f"{name.partition('/')[0]}/" for name in parts_of("encoders")[0] if "/" in name)
    return (
        f"no encoder is named {pattern!r}; names begin with {', '.join(first)} or {last}, "
        f"and a pattern has stars, in quotes: {EXAMPLE}"
    )
