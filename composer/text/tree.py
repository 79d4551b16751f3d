"""A text as a tree of values, each with the line and column where it stands, counted from 1. No torch here."""

from __future__ import annotations

from typing import NamedTuple

from composer.text.scalars import ScalarValue


class ScalarNode(NamedTuple):
    """A string, number, truth value or null."""

    value: ScalarValue
    line: int
    column: int
    quoted: bool = False


class SequenceNode(NamedTuple):
    """A list."""

    entries: tuple[Tree, ...]
    line: int
    column: int


class MappingNode(NamedTuple):
    """Keys and values, in order; keys are strings, and no key is there twice."""

    pairs: tuple[tuple[ScalarNode, Tree], ...]
    line: int
    column: int

    def get(self, key: str) -> Tree | None:
        """The value of a key; None where there is no such key."""
        return next((value for name, value in self.pairs if name.value == key), None)


Tree = ScalarNode | SequenceNode | MappingNode


def describe_value(tree: Tree) -> str:
    """A value as it is named after `got`: `'64', a string`."""
    if isinstance(tree, SequenceNode):
        return f"a list of {len(tree.entries)}"
    if isinstance(tree, MappingNode):
        return "a mapping"
    value = tree.value
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if not isinstance(value, str):
        return f"{value!r}, a {'whole number' if isinstance(value, int) else 'number'}"
    return f"{value if len(value) <= 60 else value[:57] + '...'!r}, a string"
