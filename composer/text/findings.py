"""What reading finds besides the graph itself: problems, and where each path of the spec stands. No torch here."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

from attrs import define, field

from composer.problem import MAX_PROBLEMS, Place, Problem, Source, find_close_matches, suggest
from composer.text.tree import Tree

SYNONYMS: Mapping[str, str] = MappingProxyType(
    {
        "backbone": "encoder",
        "decode_head": "decoder",
        "classifier": "head",
        "auxiliary_head": "aux",
        "auxiliary_heads": "aux",
        "decoder_channels": "channels",
    }
)
"""What other libraries call the keys of a spec."""

UNSUPPORTED_KEYS: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(
        ("class_names", "classes_names", "label_names", "labels", "id2label", "colors", "colours", "palette"),
        "leave it out: a model does not store the names and colors of its classes",
    )
    | dict.fromkeys(("in_channels", "in_chans", "num_channels"), "set the channels of the input: input: {channels: …}")
)
"""Keys that are no misspelling of any other, however much they look like one, with what to do instead."""


class TooManyProblemsError(Exception):
    """More problems than are told at once have been found."""


@define
class Diagnostics:
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
        if len(self.problems) > MAX_PROBLEMS:
            raise TooManyProblemsError

    def keys(
        self,
        owner: str,
        noun: str,
        keys: Iterable[Tree],
        known: Iterable[str],
        path: str,
        instead: Mapping[str, str] = UNSUPPORTED_KEYS,
    ) -> None:
        """Add a problem for each unknown key. `instead` says what to do about some of them."""
        names = list(known)
        for key in keys:
            message = f"{owner} has no {noun} {get_key_name(key)!r}."
            repair = instead.get(get_key_name(key)) or suggest_key(get_key_name(key), names, owner)
            self.add("key", message, join_path(path, get_key_name(key)), key, got=get_key_name(key), repair=repair)


def get_key_name(key: Tree) -> str:
    """The text of a key, which the document has made sure is a string."""
    return str(getattr(key, "value", ""))


def join_path(path: str, name: str) -> str:
    """The path of a field: `decoder.channels`."""
    return f"{path}.{name}" if path else name


def is_misspelling(missing: str, written: Iterable[str]) -> bool:
    """Return whether a missing key is there under an unknown name, which is a problem of its own."""
    names = [name for name in written if name not in UNSUPPORTED_KEYS]
    return any(SYNONYMS.get(name) == missing for name in names) or bool(find_close_matches(missing, names))


def suggest_key(name: str, known: Collection[str], owner: str) -> str:
    """Return what to write instead of an unknown key."""
    if SYNONYMS.get(name) in known:
        return f"did you mean {SYNONYMS[name]}?"
    return suggest(name, known) if known else f"leave it out: {owner} has none"
