"""Problems of a spec: what is wrong, where, and how to fix it."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice

from attrs import field, frozen
from attrs.converters import optional

MAX_MESSAGE_LENGTH = 2000
"""The maximum length of a message: what it quotes may be as long as a file."""


def make_printable(text: str) -> str:
    """Return a text with control characters escaped, so that it stays in its line of a terminal."""
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
    """The place of a problem: a path in the spec (`necks[0].indices[1]`), and file, line and column if known."""

    path: str = ""
    file: str | None = None
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        """Return `specs/vit-unet.yaml:4:10`, or nothing for a graph without a text."""
        file = make_printable(self.file or "")
        return file if self.line is None else f"{file or '<text>'}:{self.line}:{self.column}"


@frozen
class SetField:
    """Give a field of a node's part another value, written as a spec writes it."""

    node: str
    name: str
    value: str


@frozen
class InsertNecks:
    """Put parts between a node and one of its inputs, each written as a spec writes it.

    In a chain they join the chain; elsewhere they become nodes called `names`.
    """

    before: str
    source: str
    parts: tuple[str, ...]
    names: tuple[str, ...] | None = None


Edit = SetField | InsertNecks


@frozen
class Fix:
    """Edits of a spec that solve a problem, and the line that describes them."""

    edits: tuple[Edit, ...]
    text: str

    def __str__(self) -> str:
        return self.text


def _convert_fix(value: str | Fix | None) -> str | Fix | None:
    return _truncate_text(value) if isinstance(value, str) else value


@frozen(kw_only=True)
class Problem:
    """One problem: its code, message and place, what was expected, what was found, and how to fix it.

    Texts of more than `MAX_MESSAGE_LENGTH` letters keep their beginning and end.
    """

    code: str
    message: str = field(converter=_truncate_text)
    place: Place = Place()
    expected: str | None = field(default=None, converter=optional(_truncate_text))
    got: str | None = field(default=None, converter=optional(_truncate_text))
    fix: str | Fix | None = field(default=None, converter=_convert_fix)

    def __str__(self) -> str:
        """`file:line:column: error[code] path: message`, and the fix on a line of its own."""
        return self.format("error")

    def format(self, severity: str) -> str:
        """Return the problem with another severity, such as `note`."""
        place = f"{self.place}: " if str(self.place) else ""
        path = f" {make_printable(_truncate_text(self.place.path))}:" if self.place.path else ""
        fix = f"\n  fix: {make_printable(str(self.fix))}" if self.fix else ""
        return f"{place}{severity}[{self.code}]{path} {make_printable(self.message)}{fix}"


@frozen
class Source:
    """The file that a graph was read from, and (line, column) of each path of the spec, counted from 1."""

    file: str | None = None
    marks: dict[str, tuple[int, int]] = field(factory=dict, repr=False)

    def locate(self, path: str) -> Place:
        """Return the place of `path`, or of what encloses it if the text does not contain it (a default, say)."""
        enclosing = path
        while enclosing and enclosing not in self.marks:
            enclosing = enclosing[: max(enclosing.rfind("."), enclosing.rfind("["), 0)]
        line, column = self.marks.get(enclosing, (None, None))
        return Place(path, self.file, line, column)


MAX_PROBLEMS = 100
"""The number of problems that are reported at once. Finding fixes for thousands would take minutes."""

MAX_COMPARED_NAMES = 400
"""The number of known names that an unknown name is compared with."""


def truncate_problems(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems; of more than `MAX_PROBLEMS` the first ones, and one more that says so."""
    first = list(islice(problems, MAX_PROBLEMS + 1))
    if len(first) > MAX_PROBLEMS:
        said = f"there are more than {MAX_PROBLEMS} problems; these are the first of them."
        first[-1] = Problem(code="limit", message=said, place=first[-1].place, fix="fix these, and check again")
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
    """Return a suggestion for an unknown name: the names that are close to it, or the first of the known ones."""
    names = sorted(known)
    if len(names) > MAX_COMPARED_NAMES:  # to compare all would take seconds: those that begin most like this one
        nearest = bisect(names, name)
        names = names[max(0, nearest - MAX_COMPARED_NAMES // 2) : nearest + MAX_COMPARED_NAMES // 2]
    if not names:
        return "there is none to choose from"
    found = find_close_matches(name, names)
    if found:
        return f"did you mean {' or '.join(found)}?"
    return f"known: {', '.join(names[:limit])}{', …' if len(names) > limit else ''}"


def find_close_matches(name: str, known: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """Return the three names most like this one; names that are equal but for case come alone.

    A lower-case name is compared with the lower-case form of the others.
    """
    names = list(known)
    same = [one for one in names if one.lower() == name.lower()]
    if same or name != name.lower():
        return same[:3] or get_close_matches(name, names, n=3, cutoff=cutoff)
    spelled = {one.lower(): one for one in names}
    return [spelled[letters] for letters in get_close_matches(name, spelled, n=3, cutoff=cutoff)]
