"""Where the arguments of a call stand in a config. No torch here."""

from __future__ import annotations

from attrs import define, evolve, field

from composer.problem import Place, Problem
from composer.text.tree import MappingNode as Pairs
from composer.text.tree import SequenceNode, Tree


@define
class SourceMap:
    """The place of each argument: `marks` has those that the config spells out, and `""` is that of them all."""

    file: str | None
    marks: dict[str, Place] = field(factory=dict)

    def mark(self, argument: str, path: str, key: Tree, value: Tree | None = None) -> None:
        """Remember that an argument stands at `path`, with all that its value holds. Keys are what is pointed at."""
        self.marks[argument] = Place(path, self.file, key.line, key.column)
        if isinstance(value, Pairs):
            for name, inner in value.pairs:
                self.mark(f"{argument}.{name.value}", f"{path}.{name.value}", name, inner)
        if isinstance(value, SequenceNode):
            for position, inner in enumerate(value.entries):
                self.mark(f"{argument}[{position}]", f"{path}[{position}]", inner, inner)

    def place(self, argument: str) -> Place:
        """The place of an argument; of what encloses it, where the config does not spell it out."""
        enclosing = argument
        while enclosing and enclosing not in self.marks:
            enclosing = enclosing[: max(enclosing.rfind("."), enclosing.rfind("["), 0)]
        place = self.marks[enclosing]
        rest = argument[len(enclosing) :]
        joint = "." if rest and rest[0] not in ".[" else ""
        return evolve(place, path=f"{place.path}{joint}{rest}")

    def locate_problem(self, problem: Problem) -> Problem:
        """A problem of a call, at its place in the config."""
        return evolve(problem, place=self.place(problem.place.path))
