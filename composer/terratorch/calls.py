"""Arguments of a call of TerraTorch's factory, and problems of the call and of its graph at these arguments."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import attrs
from attrs import define, evolve, field, frozen

from composer.errors import Edit, Fix, Place, Problem, SetField, Source, SpecError, suggest, truncate_problems
from composer.graph import Graph, Node, Shared
from composer.inference import TypedGraph
from composer.neck_paths import format_part
from composer.parts import Encoder, Part, TemporalPooling
from composer.parts.base import get_part_name
from composer.parts.rules import compute_implied_sizes


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
        values, paths = ({names.get(n, n): v for n, v in mapping.items()} for mapping in (self.values, self.paths))
        return evolve(self, values=values, paths=paths)


@define
class Diagnostics:
    """Collect the problems of a call, and notes on where TerraTorch behaves differently.

    The place of a problem is an argument: `decoder_channels`, `necks[1].indices`. Where the call was read from a
    config, `aliases` maps arguments to paths of the config (`""` is the whole call), and `source` has their
    positions. `origins` are the arguments that each node of the graph was made of. `spellings` maps arguments to the
    names that the caller's factory has for them, with which a fix is written.
    """

    source: Source = field(factory=Source)
    aliases: dict[str, str] = field(factory=dict)
    origins: dict[str, Arguments] = field(factory=dict)
    spellings: dict[str, str] = field(factory=dict)
    problems: list[Problem] = field(factory=list)
    notes: list[Problem] = field(factory=list)

    def locate(self, argument: str) -> Place:
        """Return the place of an argument, or of what encloses it where the config does not spell it out."""
        enclosing = next((path for path in _iter_enclosing_paths(argument) if path in self.aliases), None)
        if enclosing is None:
            return self.source.locate(argument)
        rest = argument[len(enclosing) :]
        return self.source.locate(f"{self.aliases[enclosing]}{'.' if rest and not enclosing else ''}{rest}")

    def add_problem(self, path: str, message: str, fix: str | None = None, code: str = "value") -> None:
        """Add a problem at an argument; with the code `note`, a note."""
        problem = Problem(code=code, message=message, place=self.locate(path), fix=self._spell(fix))
        found = self.notes if code == "note" else self.problems
        # The main head's problems recur for every auxiliary head.
        if problem not in found:
            found.append(problem)

    def add_note(self, path: str, message: str, fix: str | None = None) -> None:
        """Add a note on an argument that has another effect in TerraTorch than it appears to have, or none."""
        self.add_problem(path, message, fix, "note")

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

    def map_problem(self, problem: Problem, graph: Graph | None) -> Problem:
        """Return a problem of the graph with the place of the argument that caused it, and a fix in arguments.

        Where a field has no argument of its own, the place is that of the node's argument.
        """
        found = self.find_origin(problem.place.path)
        if found is None:
            return evolve(problem, place=self.locate(""))
        origin, path = found
        if isinstance(problem.fix, Fix):
            fix: str | None = "; ".join(self._format_edit(edit, graph) for edit in problem.fix.edits)
        else:
            fix = problem.fix and format_fix(problem.fix, origin)
        return evolve(problem, place=self.locate(path), fix=self._spell(fix))

    def _spell(self, fix: str | None) -> str | None:
        for name, spelling in self.spellings.items():
            fix = fix and fix.replace(name, spelling)
        return fix

    def _format_edit(self, edit: Edit, graph: Graph | None) -> str:
        if isinstance(edit, SetField):
            return f"{self.origins[edit.node].format_path(edit.name)}: {edit.value}"
        # Frames are pooled by the backbone in TerraTorch.
        pooling = TemporalPooling.__name__
        if edit.parts == (pooling,):
            return f"{self.origins['encoder'].format_path('temporal_pooling')}: mean"
        nodes = [node for node in (graph.nodes if graph else ()) if node.name.startswith("necks[")]
        parts = [format_part(node.part) for node in nodes if isinstance(node.part, Part)]
        at = [*(node.name for node in nodes), edit.before].index(edit.before)
        necks = (part.partition(": {") for part in (*parts[:at], *edit.parts, *parts[at:]))
        dicts = [f"{{name: {name}, {fields}" if fields else f"{{name: {name}}}" for name, _, fields in necks]
        return f"necks: [{', '.join(neck for neck in dicts if pooling not in neck)}]"

    @contextmanager
    def map_errors(self, graph: Graph | None = None) -> Iterator[None]:
        """Within it, a SpecError of the graph becomes one of the call, in the order of the file."""
        try:
            yield
        except SpecError as error:
            raise SpecError(sort_problems(self.map_problem(problem, graph) for problem in error.problems)) from None


_SPEC_KEYS = ("decoder", "encoder", "from", "head", "input", "known", "necks", "rescale")
"""Words with which a fix may begin, and which are not fields of a part."""


def format_fix(fix: str, origin: Arguments) -> str:
    """Return a fix that begins with a field, `channels: [8]`, with the argument for that field."""
    image = re.match(r"input: \{(frames|channels): (\d+)\}", fix)
    if image and origin.prefix.startswith("backbone_"):
        return f"{origin.format_path('num_frames' if image[1] == 'frames' else 'in_chans')}: {image[2]}"
    name, colon, value = fix.partition(": ")
    is_field = colon and name.isidentifier() and name not in _SPEC_KEYS
    return f"{origin.format_path(name)}: {value}" if is_field else fix


def sort_problems(problems: Iterable[Problem]) -> list[Problem]:
    """Return problems in the order of the file; those without a position keep theirs."""
    return sorted(problems, key=lambda problem: (problem.place.line or 0, problem.place.column or 0))


def _iter_enclosing_paths(path: str) -> Iterator[str]:
    """Yield a path, then each that encloses it: `a.b[0]`, `a.b`, `a`, and the empty one."""
    while path:
        yield path
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    yield path


def find_padding_notes(typed: TypedGraph, report: Diagnostics) -> list[Problem]:
    """Return a note on the argument whose part needs images padded that TerraTorch does not pad; nothing elsewhere.

    TerraTorch pads for patches alone. Where maps do not cover whole cells, it stretches the results of a part.
    """
    sizes, multiple = typed.sizes, typed.graph.padding.multiple
    if any(info.patch for info in typed.encoder_infos.values()):
        return []
    if sizes.height is not None and "encoder" in typed.encoder_infos:
        node, need = "encoder", f"the network takes images of {sizes.height} × {sizes.width}"
    else:
        needy = [node for node in typed.order if _compute_required_multiple(typed, node) > multiple]
        if not needy or sizes.multiple <= multiple:
            return []
        owner = "the network" if isinstance(needy[0].part, Encoder | Shared) else get_part_name(needy[0].part)
        node, need = needy[0].name, f"{owner} needs sides that are multiples of {sizes.multiple}"
    message = (
        f"{need}: others are padded, and cropped. TerraTorch feeds them as they are, and gives other numbers or fails."
    )
    return [report.map_problem(Problem(code="note", message=message, place=Place(node)), typed.graph)]


def _compute_required_multiple(typed: TypedGraph, node: Node) -> int:
    """Return the multiple that a node alone requires of the sides of images."""
    multiples = [compute_implied_sizes(feature).multiple for feature in typed.features[node.name]]
    if node.name in typed.encoder_infos:
        multiples.append(typed.encoder_infos[node.name].sizes.multiple)
    elif not isinstance(node.part, Shared):
        multiples.append(typed.node_sizes[node.name].multiple)
    return max(multiples)


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
    missing = [n for n, entry in fields.items() if entry.default is attrs.NOTHING and entry.init and n not in arguments]
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
