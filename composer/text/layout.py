"""How a text looks: short values on one line, as a person writes them, long ones below each other. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from composer.text.scalars import format_scalar

MAX_LINE_WIDTH = 100
"""The longest line, but for a single value that is longer."""

_BLOCK_SECTIONS = ("necks", "nodes", "aux")
"""Sections that stand line by line however short they are."""


def dump(data: Mapping[str, Any]) -> str:
    """The text of scalars, lists and mappings."""
    lines = (
        line
        for key, value in data.items()
        for line in _iter_lines(f"{format_scalar(key)}:", value, opened=key in _BLOCK_SECTIONS)
    )
    return "".join(f"{line}\n" for line in lines)


def _iter_lines(lead: str, value: Any, indent: int = 0, *, opened: bool = False) -> Iterator[str]:
    """The lines of a value after its key or dash, which stand at `indent`."""
    line = f"{' ' * indent}{lead} {_format_inline(value)}"
    if not isinstance(value, list | dict) or not value or (not opened and len(line) <= MAX_LINE_WIDTH):
        yield line
        return
    yield f"{' ' * indent}{lead}"
    # What stands below a dash begins two columns further right than the dash does.
    within = indent + (4 if lead.startswith("- ") else 2)
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _iter_lines(f"{format_scalar(key)}:", inner, within)
        return
    for inner in value:
        if isinstance(inner, dict) and len(inner) == 1:
            ((key, fields),) = inner.items()
            yield from _iter_lines(f"- {format_scalar(key)}:", fields, within)
        else:
            yield from _iter_lines("-", inner, within)


def _format_inline(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{format_scalar(key)}: {_format_inline(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_format_inline, value))}]"
    return format_scalar(value)
