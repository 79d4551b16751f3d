"""Write data as YAML in many styles: flow and block, quotes, anchors and aliases, comments."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from math import isfinite
from typing import Any

from attrs import define, field
from hypothesis import strategies as st

from composer.spec.yaml import format_scalar

Data = Any
"""The data of a spec: scalars, lists, and dicts with strings for keys."""

_COMMENTS = ("", "", "", "  # as in the paper", " #{[&*!|>'\"%@`", "   ")

_ENDS = ("\n", "\n", "\n", "\r\n", "\r")


@st.composite
def generate_yaml_styles(draw: st.DrawFn, data: dict[str, Data]) -> str:
    """Draw a text that is read as `data`; it shrinks to plain block style."""
    writer = _YamlWriter(draw, _choose_anchors(draw, data))
    lines = list(writer.write_block(data, 0))
    comments = draw(st.booleans())
    lines = [line + (draw(st.sampled_from(_COMMENTS)) if comments else "") for line in lines]
    if draw(st.sampled_from((False, False, False, True))):
        lines = [
            draw(st.sampled_from(("---", "%YAML 1.2\n---", "# A model"))),
            *lines,
            draw(st.sampled_from(("", "..."))),
        ]
    mark = draw(st.sampled_from(("", "", "", "\ufeff")))
    return mark + draw(st.sampled_from(_ENDS)).join((*lines, ""))


def _choose_anchors(draw: st.DrawFn, data: Data) -> dict[str, str]:
    """Draw anchors for some of the values that occur more than once, by their repr."""
    counts = Counter(map(repr, _iter_descendants(data)))
    again = [said for said, count in counts.items() if count > 1]
    drawn = draw(st.lists(st.sampled_from(again), max_size=4, unique=True)) if again else []
    return {said: f"a{number}" for number, said in enumerate(drawn)}


def _iter_descendants(data: Data) -> Iterator[Data]:
    for entry in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield entry
        yield from _iter_descendants(entry)


@define
class _YamlWriter:
    """Writes values. `anchors` are names by the repr of a value, and `known` the names already defined."""

    draw: st.DrawFn
    anchors: dict[str, str]
    known: set[str] = field(factory=set)

    def write_block(self, data: Data, indent: int) -> Iterator[str]:
        """Yield the lines of a list or a mapping that is not empty."""
        blank = " " * indent
        entries = [(f"{self.key(name)}:", value) for name, value in data.items()] if isinstance(data, dict) else []
        for lead, value in entries or [("-", value) for value in data]:
            mark = self._make_anchor(value)
            if mark.startswith("*") or not self._is_block(value):
                yield f"{blank}{lead} {self.write_flow(value, mark)}"
            else:
                yield f"{blank}{lead} {mark}".rstrip()
                yield from self.write_block(value, indent + self.draw(st.sampled_from((2, 2, 1, 4))))

    def write_flow(self, data: Data, mark: str | None = None) -> str:
        """Return a value on one line, after its anchor, or as an alias."""
        mark = self._make_anchor(data) if mark is None else mark
        if mark.startswith("*"):
            return mark
        if isinstance(data, dict):
            said = f"{{{', '.join(f'{self.key(name)}: {self.write_flow(value)}' for name, value in data.items())}}}"
        elif isinstance(data, list):
            said = f"[{', '.join(self.write_flow(value) for value in data)}]"
        else:
            said = self.scalar(data)
        return f"{mark} {said}".lstrip()

    def key(self, name: str) -> str:
        """Return a key, plain or in quotes."""
        return _format_string(self.draw, name)

    def scalar(self, value: Data) -> str:
        """Return a scalar in one of its equal forms."""
        if isinstance(value, str):
            return _format_string(self.draw, value)
        return self.draw(st.sampled_from(_list_scalar_forms(value)))

    def _make_anchor(self, value: Data) -> str:
        name = self.anchors.get(repr(value))
        if name is None:
            return ""
        # In flow style, an alias would include the colon or comma after it.
        mark = f"*{name} " if name in self.known else f"&{name}"
        self.known.add(name)
        return mark

    def _is_block(self, value: Data) -> bool:
        return isinstance(value, dict | list) and bool(value) and self.draw(st.sampled_from((True, False)))


def _format_string(draw: st.DrawFn, text: str) -> str:
    plain = format_scalar(text)
    ways = [plain, plain, plain, f"'{text.replace(chr(39), 2 * chr(39))}'", json.dumps(text)]
    # Single quotes cannot hold characters that double quotes escape.
    return draw(st.sampled_from(ways)) if text.isprintable() and text.isascii() else plain


def _list_scalar_forms(value: Data) -> list[str]:
    plain = format_scalar(value)
    if value is None or isinstance(value, bool):
        return [plain, plain, plain.title(), plain.upper()]
    if isinstance(value, int):
        if value < 0:
            return [plain]
        return [plain, plain, plain, f"+{value}", f"{value:#x}", f"{value:#o}", f"0{value}"]
    short = f"{value:.3e}"
    return [plain, plain, short] if isfinite(value) and float(short) == value else [plain]
