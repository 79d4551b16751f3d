"""`list KIND [PATTERN]`: the parts that a spec may name, with their arguments. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import groupby
from typing import TYPE_CHECKING, Any

from composer.commands.terminal import UsageError
from composer.libraries import LIBRARIES
from composer.parts import KINDS, PART_REGISTRY, Part, UnusableError
from composer.text.annotations import OPTIONS
from composer.text.declaring import Field, get_fields
from composer.text.layout import dump

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
