"""`list`: print the names and fields of parts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import groupby
from typing import TYPE_CHECKING, Any

from composer.adapters.timm.catalogue import get_catalogue_version, list_networks
from composer.cli.terminal import UsageError, log, print_text, render
from composer.encoder_info import LIBRARIES, get_adapter
from composer.parts import KINDS, PART_REGISTRY, Part
from composer.parts.registry import UnusableError
from composer.spec.schema import OPTIONS, Field, get_fields
from composer.spec.writer import dump

if TYPE_CHECKING:
    from rich.console import RenderableType

PLURALS = {f"{kind}s": kind for kind in KINDS}

UNLISTED_SOURCES = ("timm", "transformers")
"""Sources with more names than a registry lists."""


def print_parts(kind: str, pattern: str | None) -> None:
    """Print the parts of a kind, such as `necks`, with their fields; for a pattern of encoders, names only.

    Raises UsageError where nothing matches.
    """
    is_pattern = kind == "encoders" and pattern is not None and pattern not in list_parts(kind)[0]
    names = list_encoder_names(pattern or "") if is_pattern else []
    print_text("\n".join(names) or render(*describe_parts(kind, pattern)))
    if kind == "encoders" and pattern is None:
        print_text("python -m composer list encoders 'timm/*resnet*' lists names.")


def describe_parts(kinds: str, pattern: str | None) -> list[RenderableType]:
    """Return names, purpose, and fields with their defaults of the parts of a kind that match `pattern`.

    Parts of installed packages are included, and names that are known and unsupported come last, with the reason.
    Raises UsageError where nothing matches.
    """
    parts, unusable = list_parts(kinds)
    matching = {name: part for name, part in parts.items() if is_match(name, pattern)}
    unsupported = {name: why for name, why in list_unsupported_names(parts).items() if is_match(name, pattern)}
    broken = [why for name, why in unusable.items() if is_match(name, pattern)]
    if not matching and not unsupported:
        names = ", ".join(dict.fromkeys(re.sub("/.*", "/…", name) for name in parts))
        raise UsageError("\n".join(broken) or f"no {PLURALS[kinds]} is named {pattern!r}; there are {names}")
    lines: list[RenderableType] = []
    # Names that differ in size only are described together.
    alike = groupby(matching, lambda name: (describe_part(matching[name], name), *format_fields(matching[name], name)))
    for (purpose, *fields), names_of_size in alike:
        lines += _format_part("\n".join(names_of_size), purpose, fields)
    for name, why in unsupported.items():
        lines += _format_part(name, why)
    sources = dict.fromkeys(part.source for part in matching.values() if part.source in LIBRARIES)
    return [*lines, *map(describe_installation, filter(None, sources)), *broken]


def _format_part(names: str, purpose: str, fields: Sequence[str] = ()) -> list[RenderableType]:
    from rich.padding import Padding
    from rich.text import Text

    arguments = Text("".join(f"  {field}\n" for field in fields), "dim")
    return [Text(names, "bold cyan"), Padding(purpose, (0, 0, 0, 4)), arguments]


def is_match(name: str, pattern: str | None) -> bool:
    """Return whether a name matches the pattern, ignoring case; without a pattern, any does."""
    return pattern is None or fnmatchcase(name.lower(), pattern.lower())


def list_parts(kinds: str) -> tuple[dict[str, type[Part]], dict[str, str]]:
    """Return the parts of a kind by name, and the names of any kind whose package is broken, with the reason."""
    parts: dict[str, type[Part]] = {}
    unusable: dict[str, str] = {}
    for name in PART_REGISTRY:
        try:
            part = PART_REGISTRY[name]
        except UnusableError as error:
            unusable[name] = f"{error} {error.fix}"
            continue
        if issubclass(part, KINDS[PLURALS[kinds]]):
            parts[f"{name}NAME" if name.endswith("/") else name] = part
    return parts, unusable


def list_unsupported_names(parts: Mapping[str, type[Part]]) -> dict[str, str]:
    """Return the names that the sources of `parts` know and do not support, with the reason and a replacement."""
    return {
        f"{part.source}/{name}": f"Cannot be had: {reason}. "
        f"Use {instead if '/' in instead else f'{part.source}/{instead}'}."
        for part in dict.fromkeys(parts.values())
        for name, (reason, instead) in part.refused.items()
    }


def format_fields(part: type[Part], name: str) -> list[str]:
    """Return the fields with their defaults, as a spec writes them: `dropout: 0.0`."""
    fields = {key: field for key, field in get_fields(part).items() if not (part.source and key == "name")}
    defaults = part.defaults.get(name.partition("/")[2])
    if defaults is None:
        defaults = {key: field.attribute.default for key, field in fields.items()}
    return [
        f"{key} (required)" if fields[key].required else _format_default(key, fields[key], default)
        for key, default in defaults.items()
    ]


def _format_default(name: str, field: Field, default: Any) -> str:
    if isinstance(default, tuple):
        default = dict(default) if field.wanted is OPTIONS else list(default)
    return dump({name: default}).rstrip("\n")


def describe_part(part: type[Part], name: str) -> str:
    """Return the line of a source on this name, or else the first line of the part's docstring."""
    return part.names[name.partition("/")[2]] if part.names else (part.__doc__ or "").strip().split("\n")[0]


def describe_installation(source: str) -> str:
    """Return in one line the library that a source needs, and whether it is installed."""
    library = LIBRARIES[source]
    state = "is installed" if library.is_installed() else f"is not installed: pip install {library.requirement}"
    return f"{source}/… needs {library.package}, which {state}"


def list_encoder_names(pattern: str) -> list[str]:
    """Return the names of encoders that match `pattern`, as a spec writes them: `timm/resnet50`.

    Notes on their libraries and on unsupported names go to stderr. transformers is imported where the pattern may match
    one of its names; timm has a catalogue.
    """
    parts, unusable = list_parts("encoders")
    possible = [source for source in UNLISTED_SOURCES if _has_possible_match(pattern, source)]
    names = [name for source in possible for name in _list_source_names(source)]
    names += [name for name in parts if name.removesuffix("/NAME") not in UNLISTED_SOURCES]
    matching = [name for name in names if is_match(name, pattern)]
    missing = [source for source in possible if not LIBRARIES[source].is_installed()]
    for source in dict.fromkeys([*(name.partition("/")[0] for name in matching), *missing]):
        if source in LIBRARIES:
            log(describe_installation(source))
    if matching:
        for why in (why for name, why in unusable.items() if is_match(name, pattern)):
            log(why)
        if unsupported := [name for name in list_unsupported_names(parts) if is_match(name, pattern)]:
            log(f"cannot be had, and list encoders NAME says why: {', '.join(unsupported)}")
    return matching


def _list_source_names(source: str) -> list[str]:
    """List all names of a source where they can be found out."""
    library = LIBRARIES[source]
    if source == "timm" and library.format_versions() in (None, f"timm-{get_catalogue_version()}"):
        return [f"timm/{name}" for name in list_networks()]
    return [f"{source}/{name}" for name in get_adapter(source).list_networks()] if library.is_installed() else []


def _has_possible_match(pattern: str, source: str) -> bool:
    """Return whether a pattern may match a name of a source, judged by its beginning."""
    beginning = re.split(r"[*?\[]", pattern.lower(), maxsplit=1)[0]
    return beginning.startswith(f"{source}/") or (f"{source}/".startswith(beginning) and beginning != pattern.lower())
