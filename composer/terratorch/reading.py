"""What is kept while a config is read: what is wrong, what is set aside, where arguments stand. No torch here."""

from __future__ import annotations

from typing import Any

from attrs import Factory, define

from composer.problem import Place, Problem
from composer.terratorch.places import SourceMap
from composer.text.findings import Diagnostics, get_key_name, join_path
from composer.text.tree import MappingNode, ScalarNode, SequenceNode, Tree

_BOOLEAN_WORDS = {word: word in ("yes", "on") for word in ("yes", "on", "no", "off")}
_BOOLEAN_SPELLINGS = {
    spelling: truth for word, truth in _BOOLEAN_WORDS.items() for spelling in (word, word.capitalize(), word.upper())
}
"""Words that TerraTorch's reader takes for true and false: it keeps to YAML 1.1 in this, and composer's own to 1.2."""


@define
class ParseContext:
    """Filled while a config is read; nothing is raised until all of it has been seen."""

    findings: Diagnostics
    places: SourceMap
    notes: list[Problem] = Factory(list)

    def add_problem(self, code: str, message: str, path: str, at: Tree, repair: str | None = None) -> None:
        """Put a problem down."""
        self.findings.add(code, message, path, at, repair=repair)

    def add_ignored_key(self, key: Tree, path: str, message: str, repair: str | None = None) -> None:
        """Put down that a key is left out of the spec, and why."""
        place = Place(path, self.findings.file, key.line, key.column)
        self.notes.append(Problem(code="aside", message=message, place=place, repair=repair))

    def reject_dotted_keys(self, mapping: MappingNode, path: str) -> bool:
        """Whether keys are joined by dots, which TerraTorch's reader takes apart; each is put down as a problem."""
        keys = [key for key, _ in mapping.pairs if "." in get_key_name(key)]
        for key in keys:
            message = "keys that are joined by dots are not taken apart."
            self.add_problem(
                "key", message, join_path(path, get_key_name(key)), key, _expand_dotted_key(get_key_name(key), path)
            )
        return bool(keys)


def _expand_dotted_key(key: str, path: str) -> str:
    """A key that is joined by dots, as mappings. TerraTorch's reader overlooks that `init_args` is left out."""
    names = key.split(".")
    above = [*path.split("."), *names] if path else names
    if above[0] == "model" and above[1] not in ("class_path", "init_args"):
        names.insert(len(names) - len(above) + 1, "init_args")
    return ": {".join(names) + ": …" + "}" * (len(names) - 1)


def find_key(mapping: MappingNode, name: str, otherwise: Tree) -> Tree:
    """The key of this name, to point at; what is to be pointed at where there is none."""
    return next((key for key, _ in mapping.pairs if key.value == name), otherwise)


def to_python(tree: Tree) -> Any:
    """A value as Python has it: lists, dicts, and scalars as TerraTorch's reader takes them."""
    if isinstance(tree, MappingNode):
        return {get_key_name(key): to_python(value) for key, value in tree.pairs}
    if isinstance(tree, SequenceNode):
        return [to_python(entry) for entry in tree.entries]
    if isinstance(tree.value, str) and not tree.quoted:
        return _BOOLEAN_SPELLINGS.get(tree.value, tree.value)
    return tree.value


def is_null(tree: Tree | None) -> bool:
    """Whether there is no value, or null."""
    return tree is None or (isinstance(tree, ScalarNode) and tree.value is None)
