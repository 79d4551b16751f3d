"""`list`: print the names and fields of parts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import groupby
from typing import TYPE_CHECKING, Any

from composer.adapters.timm.catalogue import get_catalogue_version
from composer.adapters.timm.catalogue import list_networks as catalogued
from composer.cli.terminal import UsageError, log
from composer.encoder_info import LIBRARIES, get_adapter
from composer.parts import KINDS, PART_REGISTRY, Part, UnusableError
from composer.spec.parts import Field, get_fields
from composer.spec.schema import OPTIONS
from composer.spec.writer import dump

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


PLURALS = {f"{kind}s": kind for kind in KINDS}


MIN_COLUMN_WIDTH = 30
"""So wide is a column of sentences at least; with less room beside the names, they stand below them."""


COLUMN_GAP = 3
"""What is left between two columns."""


def build_parts_table(kinds: str, pattern: str | None) -> Table:
    """Every part of a kind that matches `pattern`: what it does, and its arguments with their defaults.

    The parts of installed packages are among them, and names that are known and cannot be had stand last, each with
    the reason. Raises UsageError where there is none.
    """
    from rich.text import Text

    parts, unusable = list_parts(kinds)
    found = {name: part for name, part in parts.items() if is_match(name, pattern)}
    refused = {name: why for name, why in list_unsupported_names(parts).items() if is_match(name, pattern)}
    broken = [why for name, why in unusable.items() if is_match(name, pattern)]
    if not found and not refused:
        none = f"no part of the {kinds} is named {pattern!r}; there are {_summarize_names(parts)}"
        raise UsageError("\n".join(broken) or none)
    # Names that mean the same but for their size are told of together.
    alike = groupby(found, key=lambda name: (describe_part(found[name], name), *format_arguments(found[name], name)))
    rows = [
        (Text.assemble(("\n".join(names), "bold cyan"), *(f"\n  {argument}" for argument in told)), what)
        for (what, *told), names in alike
    ]
    rows += [(Text(name, "dim"), why) for name, why in refused.items()]
    table = _build_listing_table(f"{PLURALS[kinds]} and its arguments", rows)
    sources = dict.fromkeys(part.source for part in found.values() if part.source in LIBRARIES)
    table.caption = "\n".join([*map(describe_installation, filter(None, sources)), *broken]) or None
    table.caption_justify = "left"
    return table


def _build_listing_table(heading: str, rows: Sequence[tuple[Text, str]]) -> Table:
    """What each row tells beside its names, or below them where the terminal is too narrow for that."""
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console, Group
    from rich.padding import Padding
    from rich.table import Table

    longest = max(cell_len(line) for names, _ in rows for line in names.plain.split("\n"))
    beside = longest + COLUMN_GAP + MIN_COLUMN_WIDTH <= Console().width
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", padding=(0, COLUMN_GAP, 0, 0)
    )
    table.add_column(heading if beside else f"{heading}, and what it does", no_wrap=beside)
    if beside:
        table.add_column("what it does")
    for number, (names, what) in enumerate(rows):
        if number:
            table.add_row()
        table.add_row(*([names, what] if beside else [Group(names, Padding(what, (0, 0, 0, 4)))]))
    return table


def is_match(name: str, pattern: str | None) -> bool:
    """Whether a name is as the pattern says, upper case or lower; without a pattern, any is."""
    return pattern is None or fnmatchcase(name.lower(), pattern.lower())


def list_parts(kinds: str) -> tuple[dict[str, type[Part]], dict[str, str]]:
    """The parts of a kind by name, those of installed packages too, and of whatever kind those that cannot be had."""
    found: dict[str, type[Part]] = {}
    unusable: dict[str, str] = {}
    for name in PART_REGISTRY:
        try:
            part = PART_REGISTRY[name]
        except UnusableError as error:
            unusable[name] = f"{error} {error.repair}"
            continue
        if issubclass(part, KINDS[PLURALS[kinds]]):
            found[f"{name}NAME" if name.endswith("/") else name] = part
    return found, unusable


def list_unsupported_names(parts: Mapping[str, type[Part]]) -> dict[str, str]:
    """The names that their sources know and that cannot be had, each with the reason and the name of one that can."""
    return {
        f"{part.source}/{name}": f"Cannot be had: {reason}. "
        f"Use {instead if '/' in instead else f'{part.source}/{instead}'}."
        for part in dict.fromkeys(parts.values())
        for name, (reason, instead) in part.refused.items()
    }


def format_arguments(part: type[Part], name: str) -> list[str]:
    """The fields with their defaults, as a spec writes them: `dropout: 0.0`. A name after a source is no field."""
    known = part.defaults.get(name.partition("/")[2])
    told = {field: one for field, one in get_fields(part).items() if not (part.source and field == "name")}
    if known is None:
        known = {field: one.attribute.default for field, one in told.items()}
    return [
        f"{field} (required)" if told[field].required else _format_default(field, told[field], default)
        for field, default in known.items()
    ]


def _format_default(name: str, field: Field, default: Any) -> str:
    if isinstance(default, tuple):
        default = dict(default) if field.wanted is OPTIONS else list(default)
    return dump({name: default}).rstrip("\n")


def describe_part(part: type[Part], name: str) -> str:
    """The first line of a part's docstring; the line on this name where a source has one on each."""
    _, _, one = name.partition("/")
    return part.names[one] if part.names else (part.__doc__ or "").strip().split("\n")[0]


def _summarize_names(parts: Mapping[str, type[Part]]) -> str:
    """The names of parts, and for those of a source that source alone."""
    return ", ".join(dict.fromkeys(f"{name.partition('/')[0]}/…" if "/" in name else name for name in parts))


def describe_installation(source: str) -> str:
    """Which library the names of a source need, and whether it is there: in one line, with what installs it."""
    library = LIBRARIES[source]
    here = "is installed" if library.is_installed() else f"is not installed: pip install {library.requirement}"
    return f"{source}/… needs {library.package}, which {here}"


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
    if source == "timm" and library.format_versions() in (None, f"timm-{get_catalogue_version()}"):
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
