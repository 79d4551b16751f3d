"""`list KIND [PATTERN]`: the parts that a spec may name. No torch here; timm only where its networks are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from composer.commands.terminal import UsageError
from composer.parts import KINDS, PARTS, Part
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
    """Every built-in part of a kind that matches `pattern`: what it does, and its arguments with their defaults.

    Raises UsageError where there is none.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    found = [(name, part) for name, part in _parts(kinds) if pattern is None or fnmatchcase(name, pattern)]
    if not found:
        known = ", ".join(name for name, _ in _parts(kinds))
        raise UsageError(f"no part of the {kinds} is named {pattern!r}; there are {known}")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    table.add_column(f"{PLURALS[kinds]} and its arguments", no_wrap=True)
    table.add_column("what it does")
    for number, (name, part) in enumerate(found):
        if number:
            table.add_row()
        told = "".join(f"\n  {argument}" for argument in arguments(part))
        table.add_row(Text.assemble((name, "bold cyan"), told), described(part))
    return table


def _parts(kinds: str) -> Iterator[tuple[str, type[Part]]]:
    for name, part in PARTS.items():
        if issubclass(part, KINDS[PLURALS[kinds]]):
            yield f"{name}NAME" if part.source else name, part


def arguments(part: type[Part]) -> list[str]:
    """The fields with their defaults, as a spec writes them: `dropout: 0.0`. `NAME` stands in the part's own name."""
    told = {name: field for name, field in fields_of(part).items() if not (part.source and name == "name")}
    return [f"{name} (required)" if field.required else _default(name, field) for name, field in told.items()]


def _default(name: str, field: Field) -> str:
    default: Any = field.attribute.default
    if isinstance(default, tuple):
        default = dict(default) if field.wanted is OPTIONS else list(default)
    return laid_out({name: default}).rstrip("\n")


def described(part: type[Part]) -> str:
    """The first line of a part's docstring."""
    return (part.__doc__ or "").strip().split("\n")[0]
