"""What reading finds besides the graph itself: problems, and where each path of the spec stands. No torch here."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import define, field

from composer.problem import MOST_PROBLEMS, Place, Problem, Source, close, nearest
from composer.text.tree import Tree


class EnoughError(Exception):
    """More problems than are told at once have been found."""


@define
class Findings:
    """Filled while a tree is read; nothing is raised until all of it has been seen, or more is wrong than is told."""

    file: str | None = None
    problems: list[Problem] = field(factory=list)
    marks: dict[str, tuple[int, int]] = field(factory=dict)

    @property
    def source(self) -> Source:
        """What the graph is told of its text."""
        return Source(self.file, self.marks)

    def mark(self, path: str, at: Tree) -> None:
        """Remember where the value of `path` stands."""
        self.marks[path] = (at.line, at.column)

    def add(
        self,
        code: str,
        message: str,
        path: str,
        at: Tree,
        *,
        expected: str | None = None,
        got: str | None = None,
        repair: str | None = None,
    ) -> None:
        """Put a problem down, at a place of the tree. Raises EnoughError after one more than are told at once."""
        place = Place(path, self.file, at.line, at.column)
        self.problems.append(
            Problem(code=code, message=message, place=place, expected=expected, got=got, repair=repair)
        )
        if len(self.problems) > MOST_PROBLEMS:
            raise EnoughError

    def keys(self, owner: str, noun: str, keys: Iterable[Tree], known: Iterable[str], path: str) -> None:
        """Put down keys that nobody knows."""
        names = list(known)
        for key in keys:
            message = f"{owner} has no {noun} {named(key)!r}."
            repair = nearest(named(key), names) if names else f"leave it out: {owner} has none"
            self.add("key", message, joined(path, named(key)), key, got=named(key), repair=repair)


def named(key: Tree) -> str:
    """The text of a key, which the document has made sure is a string."""
    return str(getattr(key, "value", ""))


def joined(path: str, name: str) -> str:
    """The path of a field: `decoder.channels`."""
    return f"{path}.{name}" if path else name


def misspelled(missing: str, written: Iterable[str]) -> bool:
    """Whether a key that is missing is there under a name that nobody knows, which is a problem of its own."""
    return bool(close(missing, written))
