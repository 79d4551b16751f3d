"""How a text looks: short values on one line, as a person writes them, long ones below each other. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from composer.text.scalars import spelled

WIDTH = 100
"""The longest line, but for a single value that is longer."""

_OPEN = ("necks", "nodes", "aux")
"""Sections that stand line by line however short they are."""


def laid_out(data: Mapping[str, Any]) -> str:
    """The text of scalars, lists and mappings."""
    lines = (line for key, value in data.items() for line in _entry(f"{spelled(key)}:", value, opened=key in _OPEN))
    return "".join(f"{line}\n" for line in lines)


def _entry(lead: str, value: Any, indent: int = 0, *, opened: bool = False) -> Iterator[str]:
    """The lines of a value after its key or dash, which stand at `indent`."""
    line = f"{' ' * indent}{lead} {_inline(value)}"
    if not isinstance(value, list | dict) or not value or (not opened and len(line) <= WIDTH):
        yield line
        return
    yield f"{' ' * indent}{lead}"
    # What stands below a dash begins two columns further right than the dash does.
    within = indent + (4 if lead.startswith("- ") else 2)
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _entry(f"{spelled(key)}:", inner, within)
        return
    for inner in value:
        if isinstance(inner, dict) and len(inner) == 1:
            ((key, fields),) = inner.items()
            yield from _entry(f"- {spelled(key)}:", fields, within)
        else:
            yield from _entry("-", inner, within)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{spelled(key)}: {_inline(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_inline, value))}]"
    return spelled(value)
