"""The arguments of a call, sorted out: which component each is for, and under what name the caller gave it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import attrs
from attrs import define, field, frozen

from composer.parts import Part
from composer.problem import Place, Problem, SpecError, suggest


@define
class Diagnostics:
    """What was found wrong with a call, and what is worth knowing about it: where TerraTorch does otherwise."""

    problems: list[Problem] = field(factory=list)
    notes: list[Problem] = field(factory=list)

    def add_problem(self, path: str, message: str, repair: str | None = None, code: str = "value") -> None:
        """Put down what is wrong at `path`."""
        _append_once(Problem(code=code, message=message, place=Place(path), repair=repair), self.problems)

    def add_note(self, path: str, message: str, repair: str | None = None) -> None:
        """Put down that what stands at `path` has no effect in TerraTorch, or another one than it seems to have."""
        _append_once(Problem(code="terratorch", message=message, place=Place(path), repair=repair), self.notes)

    def close(self) -> None:
        """Raise SpecError where anything is wrong."""
        if self.problems:
            raise SpecError(self.problems)


def _append_once(problem: Problem, found: list[Problem]) -> None:
    """Each once: what is wrong with the main head is wrong with every auxiliary one, which is made like it."""
    if problem not in found:
        found.append(problem)


@frozen
class Arguments:
    """Named values, each with the path at which the caller wrote it. `owner` is the path of them all."""

    owner: str
    values: Mapping[str, Any] = field(factory=dict)
    paths: Mapping[str, str] = field(factory=dict)

    @classmethod
    def from_mapping(cls, owner: str, values: Mapping[str, Any]) -> Arguments:
        """The values of a mapping that stands at `owner`."""
        return cls(owner, dict(values), {name: f"{owner}.{name}" for name in values})

    def path(self, name: str) -> str:
        """Where the value of `name` stands; the owner's path where it was not given."""
        return self.paths.get(name, self.owner)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def get(self, name: str, default: Any = None) -> Any:
        """The value of `name`, or the default."""
        return self.values.get(name, default)

    def without(self, *names: str) -> Arguments:
        """The same but for these."""
        return attrs.evolve(self, values={name: value for name, value in self.values.items() if name not in names})

    def replace(self, **values: Any) -> Arguments:
        """The same with other values for these names."""
        return attrs.evolve(self, values={**self.values, **values})

    def add_with_path(self, name: str, value: Any, path: str) -> Arguments:
        """The same with a value that the caller wrote elsewhere, at `path`."""
        return attrs.evolve(self, values={**self.values, name: value}, paths={**self.paths, name: path})

    def rename(self, **names: str) -> Arguments:
        """The same with some names replaced: `renamed(old="new")`."""
        values = {names.get(name, name): value for name, value in self.values.items()}
        paths = {names.get(name, name): path for name, path in self.paths.items()}
        return attrs.evolve(self, values=values, paths=paths)

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)


def route_arguments(
    prefix: str, given: Mapping[str, Any] | None, rest: Mapping[str, Any], owner: str = ""
) -> tuple[Arguments, dict[str, Any]]:
    """The arguments of one component, and what is left for the others.

    They are those of its own dict, `backbone_kwargs`; where that is empty or not given, those that begin with its
    prefix, `backbone_`. A prefixed argument beside a dict is left over, as it is in TerraTorch.
    """
    if given:
        return Arguments.from_mapping(f"{prefix}kwargs", given), dict(rest)
    mine = {name: name.removeprefix(prefix) for name in rest if name.startswith(prefix)}
    within = f"{owner}." if owner else ""
    taken = Arguments(
        owner or prefix.removesuffix("_"),
        {short: rest[name] for name, short in mine.items()},
        {short: f"{within}{name}" for name, short in mine.items()},
    )
    return taken, {name: value for name, value in rest.items() if name not in mine}


P = TypeVar("P", bound=Part)


def construct_part(cls: type[P], arguments: Arguments, ledger: Diagnostics, known_as: str | None = None) -> P | None:
    """A part with these fields; None, and a problem for each field, where it cannot be."""
    fields = {entry.name: entry for entry in attrs.fields(cls)}  # type: ignore[arg-type]
    name = known_as or cls.__name__
    unknown = [given for given in arguments if given not in fields]
    for given in unknown:
        ledger.add_problem(
            arguments.path(given), f"{name} has no argument {given!r}.", suggest(given, fields), code="unused"
        )
    missing = [
        entry.name
        for entry in fields.values()
        if entry.default is attrs.NOTHING and entry.init and entry.name not in arguments
    ]
    for needed in missing:
        ledger.add_problem(arguments.owner, f"{name} needs {needed}.", code="missing")
    if unknown or missing:
        return None
    try:
        return cls(**arguments.values)
    except ValueError as error:
        # Validators name the field first. Converters do not, but show the value.
        shown = (given for given in arguments if repr(arguments.get(given)) in str(error))
        first = str(error).split(" ")[0].split("[")[0]
        path = arguments.path(first if first in fields else next(shown, ""))
        ledger.add_problem(path, f"{name}: {error}.")
        return None
