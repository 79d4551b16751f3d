"""Problems of a spec: what is wrong, where, and how to fix it."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice

from attrs import field, frozen
from attrs.converters import optional

MAX_MESSAGE_LENGTH = 2000
"""Letters of a message: what it quotes may be as long as a file, and nobody reads on."""


def make_printable(text: str) -> str:
    """A text as it may stand in a line of a terminal: what is no letter, and would move the cursor, is spelled out."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def format_error(error: BaseException) -> str:
    """Return the type and the text of an exception in one line: `ValueError: too many heads`."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300] or 'no reason given'}"


def _truncate_text(text: str) -> str:
    half = MAX_MESSAGE_LENGTH // 2
    return text if len(text) <= MAX_MESSAGE_LENGTH else f"{text[:half]} … {text[-half:]}"


@frozen
class Place:
    """Where a problem is: a path in the spec (`necks[0].indices[1]`), and the file, line and column where known."""

    path: str = ""
    file: str | None = None
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        """`specs/vit-unet.yaml:4:10`, or nothing for a graph that has no text."""
        file = make_printable(self.file or "")
        return file if self.line is None else f"{file or '<text>'}:{self.line}:{self.column}"


@frozen(kw_only=True)
class Problem:
    """One thing that is wrong: the rule it breaks, where, what was expected, what was got, and how to mend it.

    Of what is longer than `MOST_SAID` letters, the beginning and the end are kept.
    """

    code: str
    message: str = field(converter=_truncate_text)
    place: Place = Place()
    expected: str | None = field(default=None, converter=optional(_truncate_text))
    got: str | None = field(default=None, converter=optional(_truncate_text))
    repair: str | None = field(default=None, converter=optional(_truncate_text))

    def __str__(self) -> str:
        """`file:line:column: error[code] path: message`, and the repair on a line of its own."""
        return self.said("error")

    def said(self, severity: str) -> str:
        """The same of another severity: what is found in passing is a `note`."""
        place = f"{self.place}: " if str(self.place) else ""
        path = f" {make_printable(_truncate_text(self.place.path))}:" if self.place.path else ""
        repair = f"\n  repair: {make_printable(self.repair)}" if self.repair else ""
        return f"{place}{severity}[{self.code}]{path} {make_printable(self.message)}{repair}"


@frozen
class Source:
    """Where a graph was read: the file, and for each path of the spec its (line, column), counted from 1."""

    file: str | None = None
    marks: dict[str, tuple[int, int]] = field(factory=dict, repr=False)

    def place(self, path: str) -> Place:
        """The place of `path`; of what encloses it, where the text does not spell it out (a default, say)."""
        enclosing = path
        while enclosing and enclosing not in self.marks:
            enclosing = enclosing[: max(enclosing.rfind("."), enclosing.rfind("["), 0)]
        line, column = self.marks.get(enclosing, (None, None))
        return Place(path, self.file, line, column)


MAX_PROBLEMS = 100
"""How many problems are told at once: nobody reads on, and repairs of twenty thousand would take minutes."""


MAX_COMPARED_NAMES = 400
"""With how many names one that nobody knows is compared, to tell which was meant."""


def truncate_problems(problems: Iterable[Problem]) -> list[Problem]:
    """The problems; of more than may be told at once the first ones, and one more that says so."""
    first = list(islice(problems, MAX_PROBLEMS + 1))
    if len(first) > MAX_PROBLEMS:
        said = f"there are more than {MAX_PROBLEMS} problems; these are the first of them."
        first[-1] = Problem(code="limit", message=said, place=first[-1].place, repair="mend these, and check again")
    return first


class SpecError(ValueError):
    """All the problems of a spec at once; `problems` holds them as objects."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))

    def __reduce__(self) -> tuple[type[SpecError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


SpecError.__module__ = "composer"


def suggest(name: str, known: Iterable[str], limit: int = 12) -> str:
    """What to tell a person who wrote a name nobody knows: the names close to it, or the list if it is short."""
    names = _find_nearby_names(name, sorted(known))
    if not names:
        return "there is none to choose from"
    found = find_close_matches(name, names)
    if found:
        return f"did you mean {' or '.join(found)}?"
    return f"known: {', '.join(names[:limit])}{', …' if len(names) > limit else ''}"


def _find_nearby_names(name: str, names: list[str]) -> list[str]:
    """Of so many sorted names that to compare all would take seconds, those that begin most like this one."""
    if len(names) <= MAX_COMPARED_NAMES:
        return names
    position = bisect(names, name)
    return names[max(0, position - MAX_COMPARED_NAMES // 2) : position + MAX_COMPARED_NAMES // 2]


def find_close_matches(name: str, known: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """The three names most like this one; where one has the very letters, upper case or lower, that one alone.

    A name in small letters is compared with names in small letters.
    """
    names = list(known)
    same = [one for one in names if one.lower() == name.lower()]
    if same or name != name.lower():
        return same[:3] or get_close_matches(name, names, n=3, cutoff=cutoff)
    spelled = {one.lower(): one for one in names}
    return [spelled[letters] for letters in get_close_matches(name, spelled, n=3, cutoff=cutoff)]
