"""`list KIND [PATTERN]`: the parts that a spec may name. No torch here; timm only where its networks are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from composer.commands.terminal import UsageError
from composer.libraries import LIBRARIES
from composer.parts import KINDS, REGISTERED, Part, UnusableError
from composer.text.annotations import OPTIONS
from composer.text.declaring import Field, fields_of
from composer.text.layout import laid_out

if TYPE_CHECKING:
    from rich.console import RenderableType

PLURALS = {f"{kind}s": kind for kind in KINDS}


def networks(pattern: str) -> list[str]:
    """The names of encoders that match `pattern`, as a spec writes them: `timm/resnet50`.

    Raises UsageError where there is none.
    """
    from composer.adapters import timm

    found = [name for name in (f"timm/{name}" for name in timm.names()) if fnmatchcase(name, pattern)]
    if not found:
        raise UsageError(f"no encoder is named {pattern!r}; a pattern has stars, in quotes: 'timm/*resnet*'")
    return found


def parts_table(kinds: str, pattern: str | None) -> RenderableType:
    """Every part of a kind that matches `pattern`: what it does, and its arguments with their defaults.

    The parts of installed packages are among them, and names that are known and cannot be had stand last, each with
    the reason. Raises UsageError where there is none.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    parts, unusable = _parts(kinds)
    found = {name: part for name, part in parts.items() if pattern is None or fnmatchcase(name, pattern)}
    refused = {name: why for name, why in _refused(parts).items() if pattern is None or fnmatchcase(name, pattern)}
    if not found and not refused:
        known = ", ".join(parts)
        raise UsageError(f"no part of the {kinds} is named {pattern!r}; there are {known}")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    table.add_column(f"{PLURALS[kinds]} and its arguments", no_wrap=True)
    table.add_column("what it does")
    for number, (name, part) in enumerate(found.items()):
        if number:
            table.add_row()
        told = "".join(f"\n  {argument}" for argument in arguments(part, name))
        table.add_row(Text.assemble((name, "bold cyan"), told), described(part, name))
    for name, why in refused.items():
        table.add_row()
        table.add_row(Text(name, "dim"), why)
    sources = dict.fromkeys(part.source for part in found.values() if part.source in LIBRARIES)
    table.caption = "\n".join([*map(_whether_installed, sources), *unusable]) or None
    table.caption_justify = "left"
    return table


def _parts(kinds: str) -> tuple[dict[str, type[Part]], list[str]]:
    """The parts of a kind by name, those of installed packages too, and why some of these cannot be had."""
    found: dict[str, type[Part]] = {}
    unusable = []
    for name in REGISTERED:
        try:
            part = REGISTERED[name]
        except UnusableError as error:
            unusable.append(f"{error} {error.repair}")
            continue
        if issubclass(part, KINDS[PLURALS[kinds]]):
            found[f"{name}NAME" if name.endswith("/") else name] = part
    return found, unusable


def _refused(parts: Mapping[str, type[Part]]) -> dict[str, str]:
    """The names that their sources know and that cannot be had, each with the reason and the name of one that can."""
    return {
        f"{part.source}/{name}": f"Cannot be had: {reason}. "
        f"Use {instead if '/' in instead else f'{part.source}/{instead}'}."
        for part in dict.fromkeys(parts.values())
        for name, (reason, instead) in part.refused.items()
    }


def arguments(part: type[Part], name: str) -> list[str]:
    """The fields with their defaults, as a spec writes them: `dropout: 0.0`. A name after a source is no field."""
    known = part.defaults.get(name.partition("/")[2])
    told = {field: one for field, one in fields_of(part).items() if not (part.source and field == "name")}
    if known is None:
        known = {field: one.attribute.default for field, one in told.items()}
    return [
        f"{field} (required)" if told[field].required else _default(field, told[field], default)
        for field, default in known.items()
    ]


def _default(name: str, field: Field, default: Any) -> str:
    if isinstance(default, tuple):
        default = dict(default) if field.wanted is OPTIONS else list(default)
    return laid_out({name: default}).rstrip("\n")


def described(part: type[Part], name: str) -> str:
    """The first line of a part's docstring; the line on this name where a source has one on each."""
    _, _, one = name.partition("/")
    return part.names[one] if part.names else (part.__doc__ or "").strip().split("\n")[0]


def _whether_installed(source: str | None) -> str:
    assert source is not None
    library = LIBRARIES[source]
    here = "is installed" if library.installed() else f"is not installed: pip install {library.requirement}"
    return f"{source}/… needs {library.package}, which {here}"
