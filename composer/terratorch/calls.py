"""Arguments of a call of TerraTorch's factory, by component, and the problems found in them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import attrs
from attrs import define, evolve, field, frozen

from composer.errors import Place, Problem, Source, SpecError, suggest, truncate_problems


@frozen
class Arguments:
    """Named values of one component, each with the path at which the caller wrote it.

    `owner` is the argument that names the component; the paths of its other arguments begin with `prefix`.
    """

    owner: str
    prefix: str
    values: Mapping[str, Any] = field(factory=dict)
    paths: Mapping[str, str] = field()

    @paths.default
    def _(self) -> dict[str, str]:
        return {name: f"{self.prefix}{name}" for name in self.values}

    def locate(self, name: str) -> str:
        """Return the path of an argument, or the owner's where it is absent."""
        return self.paths.get(name, self.owner)

    def format_path(self, name: str) -> str:
        """Return the path of an argument, or the one that it would have."""
        return self.paths.get(name, f"{self.prefix}{name}")

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of an argument, or the default."""
        return self.values.get(name, default)

    def drop(self, *names: str) -> Arguments:
        """Return the arguments without these."""
        return evolve(self, values={name: value for name, value in self.values.items() if name not in names})

    def replace(self, **values: Any) -> Arguments:
        """Return the arguments with other values for these names."""
        return evolve(self, values={**self.values, **values})

    def rename(self, **names: str) -> Arguments:
        """Return the arguments under other names: `rename(old="new")`."""
        values = {names.get(name, name): value for name, value in self.values.items()}
        return evolve(self, values=values, paths={names.get(name, name): path for name, path in self.paths.items()})


@define
class Diagnostics:
    """Collect the problems of a call, and notes on where TerraTorch behaves differently.

    The place of a problem is an argument: `decoder_channels`, `necks[1].indices`. Where the call was read from a
    config, `aliases` maps arguments to paths of the config (`""` is the whole call), and `source` has their
    positions. `origins` are the arguments that each node of the graph was made of.
    """

    source: Source = field(factory=Source)
    aliases: dict[str, str] = field(factory=dict)
    origins: dict[str, Arguments] = field(factory=dict)
    problems: list[Problem] = field(factory=list)
    notes: list[Problem] = field(factory=list)

    def locate(self, argument: str) -> Place:
        """Return the place of an argument, or of what encloses it where the config does not spell it out."""
        for enclosing in (*_iter_enclosing_paths(argument), ""):
            if enclosing in self.aliases:
                rest = argument[len(enclosing) :]
                joint = "." if rest and not enclosing else ""
                return self.source.locate(f"{self.aliases[enclosing]}{joint}{rest}")
        return self.source.locate(argument)

    def add_problem(self, path: str, message: str, fix: str | None = None, code: str = "value") -> None:
        """Add a problem at an argument."""
        problem = Problem(code=code, message=message, place=self.locate(path), fix=fix)
        # The main head's problems recur for every auxiliary head.
        if problem not in self.problems:
            self.problems.append(problem)

    def add_note(self, path: str, message: str, fix: str | None = None, code: str = "note") -> None:
        """Add a note on an argument that has another effect in TerraTorch than it appears to have, or none."""
        note = Problem(code=code, message=message, place=self.locate(path), fix=fix)
        if note not in self.notes:
            self.notes.append(note)

    def add_ignored(self, arguments: Arguments, names: Iterable[str], reason: str, fix: str | None = None) -> None:
        """Add a note on each of these arguments that is given, because TerraTorch ignores it."""
        for name in names:
            if name in arguments:
                self.add_note(arguments.locate(name), f"TerraTorch ignores {name}: {reason}.", fix)

    def raise_problems(self) -> None:
        """Raise SpecError with all problems, in the order of the file, if there are any."""
        if self.problems:
            raise SpecError(truncate_problems(sort_problems(self.problems)))

    def find_origin(self, path: str) -> tuple[Arguments, str] | None:
        """Return the arguments that made the node of a path of the graph, and the path of the argument."""
        node = next((node for node in _iter_enclosing_paths(path) if node in self.origins), None)
        if node is None:
            return None
        origin, rest = self.origins[node], path[len(node) + 1 :].removeprefix("options.")
        name = re.split(r"[.\[]", rest)[0]
        return origin, f"{origin.paths[name]}{rest[len(name) :]}" if name in origin.paths else origin.owner


def sort_problems(problems: Iterable[Problem]) -> list[Problem]:
    """Return problems in the order of the file; those without a position keep theirs."""
    return sorted(problems, key=lambda problem: (problem.place.line or 0, problem.place.column or 0))


def _iter_enclosing_paths(path: str) -> Iterator[str]:
    """Yield a path, then each that encloses it: `a.b[0]`, `a.b`, `a`."""
    while path:
        yield path
        path = path[: max(path.rfind("."), path.rfind("["), 0)]


def route_arguments(
    prefix: str, owner: str, kwargs: Mapping[str, Any] | None, rest: Mapping[str, Any], within: str = ""
) -> tuple[Arguments, dict[str, Any]]:
    """Return the arguments of one component, and what is left for the others.

    They are those of its own dict, `backbone_kwargs`; where that is empty or absent, those that begin with its prefix,
    `backbone_`. A prefixed argument beside a dict is left over, as it is in TerraTorch. Their paths begin with
    `within`.
    """
    if kwargs:
        return Arguments(owner, f"{prefix}kwargs.", dict(kwargs)), dict(rest)
    own = {name.removeprefix(prefix): value for name, value in rest.items() if name.startswith(prefix)}
    others = {name: value for name, value in rest.items() if not name.startswith(prefix)}
    return Arguments(owner, f"{within}{prefix}", own), others


def is_module(value: Any) -> bool:
    """Return whether a value is a module of torch, which is not imported for this: no module exists without it."""
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


T = TypeVar("T")


def construct(cls: type[T], arguments: Arguments, report: Diagnostics, label: str | None = None) -> T | None:
    """Build a frozen class from its fields; None, with a problem for each invalid field.

    `label` is its name in messages.
    """
    fields = attrs.fields_dict(cls)  # type: ignore[arg-type]
    label = label or cls.__name__
    unknown = [name for name in arguments if name not in fields]
    required = [name for name, entry in fields.items() if entry.default is attrs.NOTHING and entry.init]
    missing = [name for name in required if name not in arguments]
    for name in unknown:
        message = f"{label} has no argument {name!r}."
        report.add_problem(arguments.locate(name), message, suggest(name, fields), "unused")
    for name in missing:
        report.add_problem(arguments.owner, f"{label} needs {name}.", code="key")
    if unknown or missing:
        return None
    try:
        return cls(**arguments.values)
    except ValueError as error:
        # Validators name the field first. Converters do not, but quote the value.
        quoted = (name for name in arguments if repr(arguments.get(name)) in str(error))
        first = re.split(r"[ \[]", str(error))[0]
        path = arguments.locate(first if first in fields else next(quoted, ""))
        report.add_problem(path, f"{label}: {error}.")
        return None
