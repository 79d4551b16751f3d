"""Arguments of a call of TerraTorch's factory, by component, and the problems found in them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import attrs
from attrs import define, evolve, field, frozen

from composer.errors import Place, Problem, SpecError, suggest, truncate_problems
from composer.parts import ClassificationHead, EmbeddingHead, Head, Part, RegressionHead, ScalarHead, SegmentationHead
from composer.parts.validators import FINAL_ACTIVATIONS
from composer.spec.yaml import MappingNode, SequenceNode, Tree


@define
class Diagnostics:
    """Collect the problems of a call, and notes on where TerraTorch behaves differently.

    The place of a problem is an argument: `decoder_channels`, `necks[1].indices`. Where the call was read from a
    config, `marks` maps each argument to its place in the file; `""` is the place of the whole call.
    """

    file: str | None = None
    marks: dict[str, Place] = field(factory=dict)
    problems: list[Problem] = field(factory=list)
    notes: list[Problem] = field(factory=list)

    def record_place(self, argument: str, path: str, key: Tree, value: Tree | None = None) -> None:
        """Record the place of an argument and of everything in its value; mappings are located by their keys."""
        self.marks[argument] = Place(path, self.file, key.line, key.column)
        if isinstance(value, MappingNode):
            for name, inner in value.pairs:
                self.record_place(f"{argument}.{name.value}", f"{path}.{name.value}", name, inner)
        if isinstance(value, SequenceNode):
            for position, inner in enumerate(value.entries):
                self.record_place(f"{argument}[{position}]", f"{path}[{position}]", inner, inner)

    def locate(self, argument: str) -> Place:
        """Return the place of an argument, or of what encloses it where the config does not spell it out."""
        for enclosing in (*iter_enclosing_paths(argument), ""):
            if enclosing in self.marks:
                rest = argument[len(enclosing) :]
                joint = "." if rest and rest[0] not in ".[" else ""
                return evolve(self.marks[enclosing], path=f"{self.marks[enclosing].path}{joint}{rest}")
        return Place(argument, self.file)

    def add_problem(
        self, path: str, message: str, fix: str | None = None, code: str = "value", at: Tree | None = None
    ) -> None:
        """Add a problem at an argument; with `at`, `path` is a path of the config and `at` its position there."""
        self._add(self.problems, path, message, fix, code, at)

    def add_note(
        self, path: str, message: str, fix: str | None = None, code: str = "note", at: Tree | None = None
    ) -> None:
        """Add a note on an argument that has another effect in TerraTorch than it appears to have, or none."""
        self._add(self.notes, path, message, fix, code, at)

    def _add(
        self, known: list[Problem], path: str, message: str, fix: str | None, code: str, at: Tree | None
    ) -> None:
        place = self.locate(path) if at is None else Place(path, self.file, at.line, at.column)
        problem = Problem(code=code, message=message, place=place, fix=fix)
        # The main head's problems recur for every auxiliary head, and values that are not YAML have their own.
        if problem not in known and not any(
            other.code == "yaml" and (other.place.line, other.place.column) == (place.line, place.column)
            for other in self.problems
        ):
            known.append(problem)

    def raise_problems(self) -> None:
        """Raise SpecError with all problems, in the order of the file, if there are any."""
        if self.problems:
            raise SpecError(truncate_problems(sort_problems(self.problems)))


def sort_problems(problems: list[Problem]) -> list[Problem]:
    """Return problems in the order of the file; those without a position keep theirs."""
    return sorted(problems, key=lambda problem: (problem.place.line or 0, problem.place.column or 0))


def iter_enclosing_paths(path: str) -> Iterator[str]:
    """Yield a path, then each that encloses it: `a.b[0]`, `a.b`, `a`."""
    while path:
        yield path
        path = path[: max(path.rfind("."), path.rfind("["), 0)]


@frozen
class Arguments:
    """Named values of one component, each with the path at which the caller wrote it.

    `owner` is the path of the component.
    """

    owner: str
    values: Mapping[str, Any] = field(factory=dict)
    paths: Mapping[str, str] = field(factory=dict)

    @classmethod
    def from_mapping(cls, owner: str, values: Mapping[str, Any]) -> Arguments:
        """Return the values of a mapping that is itself the argument `owner`."""
        return cls(owner, dict(values), {name: f"{owner}.{name}" for name in values})

    def locate(self, name: str) -> str:
        """Return the path of an argument, or the owner's where it is absent."""
        return self.paths.get(name, self.owner)

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


def route_arguments(
    prefix: str, kwargs: Mapping[str, Any] | None, rest: Mapping[str, Any], owner: str = ""
) -> tuple[Arguments, dict[str, Any]]:
    """Return the arguments of one component, and what is left for the others.

    They are those of its own dict, `backbone_kwargs`; where that is empty or absent, those that begin with its prefix,
    `backbone_`. A prefixed argument beside a dict is left over, as it is in TerraTorch.
    """
    if kwargs:
        return Arguments.from_mapping(f"{prefix}kwargs", kwargs), dict(rest)
    names = {name.removeprefix(prefix): name for name in rest if name.startswith(prefix)}
    within = f"{owner}." if owner else ""
    arguments = Arguments(
        owner or prefix.removesuffix("_"),
        {short: rest[name] for short, name in names.items()},
        {short: f"{within}{name}" for short, name in names.items()},
    )
    return arguments, {name: value for name, value in rest.items() if not name.startswith(prefix)}


def is_module(value: Any) -> bool:
    """Return whether a value is a module of torch, which is not imported for this: no module exists without it."""
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


P = TypeVar("P", bound=Part)


def construct_part(cls: type[P], arguments: Arguments, report: Diagnostics, label: str | None = None) -> P | None:
    """Build a part from its fields; None, with a problem for each invalid field. `label` is its name in messages."""
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
        first = str(error).split(" ")[0].split("[")[0]
        path = arguments.locate(first if first in fields else next(quoted, ""))
        report.add_problem(path, f"{label}: {error}.")
        return None


_HEAD_FIELDS = ("name", "decoder", "decoder_args")


def normalize_branch(name: str) -> str:
    """Return the name of an auxiliary head in a graph: `fcn-aux_1` becomes `fcn_aux_1`, and `_x` becomes `aux_x`.

    TerraTorch accepts any name without a dot; a node's name is letters, digits and _, and begins with a letter.
    """
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return plain if plain[:1].isalpha() else f"aux{'' if plain.startswith('_') else '_'}{plain}"


def get_head_fields(entry: Any) -> dict[str, Any] | None:
    """Return the fields of an auxiliary head, a dict or an object of TerraTorch's class or ours; None for others."""
    if isinstance(entry, Mapping):
        return dict(entry)
    if all(hasattr(entry, name) for name in _HEAD_FIELDS):
        return {name: getattr(entry, name) for name in _HEAD_FIELDS}
    return None


def iter_auxiliary_heads(heads: Any, report: Diagnostics) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path and the three fields of each valid auxiliary head. No two have the same name in the graph."""
    if not isinstance(heads, list | tuple):
        report.add_problem("aux_decoders", f"auxiliary heads are a list (got {heads!r}).", code="type")
        return
    names: dict[str, str] = {}
    for position, entry in enumerate(heads):
        path = f"aux_decoders[{position}]"
        fields = get_head_fields(entry)
        if fields is None:
            message = f"an auxiliary head is an AuxiliaryHead or a dict (got {entry!r})."
            report.add_problem(path, message, "{name: NAME, decoder: FCNDecoder, decoder_args: {…}}", "type")
            continue
        fields["decoder_args"] = fields.get("decoder_args") or {}
        if not _check_head_fields(fields, path, report):
            continue
        name, label = fields["name"], normalize_branch(fields["name"])
        if label in names:
            # TerraTorch keeps the last head of a name, and builds the others for nothing.
            alike = "" if names[label] == name else f", which a graph would call {label} too"
            message = f"there is an auxiliary head {names[label]!r} already{alike}."
            report.add_problem(f"{path}.name", message, "choose another name", "node")
            continue
        names[label] = name
        yield path, fields


def _check_head_fields(fields: Mapping[str, Any], path: str, report: Diagnostics) -> bool:
    unknown = [name for name in fields if name not in _HEAD_FIELDS]
    missing = [name for name in ("name", "decoder") if fields.get(name) is None]
    name, arguments = fields.get("name"), fields["decoder_args"]
    unnamed = name is not None and not (isinstance(name, str) and 1 <= len(name) <= 60 and "." not in name)
    for key in unknown:
        message = f"an auxiliary head has no {key!r}."
        report.add_problem(f"{path}.{key}", message, suggest(key, _HEAD_FIELDS), "unused")
    for key in missing:
        report.add_problem(path, f"an auxiliary head needs a {key}.", code="key")
    if unnamed:
        message = f"a name has from 1 to 60 characters, and no dot (got {name!r})."
        report.add_problem(f"{path}.name", message, "choose another name", "node")
    if not isinstance(arguments, Mapping):
        message = f"decoder_args is a dict of arguments (got {arguments!r})."
        report.add_problem(f"{path}.decoder_args", message, "{decoder_channels: 256}", "type")
    return isinstance(arguments, Mapping) and not (unknown or missing or unnamed)


HEADS: dict[str, type[Head]] = {
    "segmentation": SegmentationHead,
    "regression": RegressionHead,
    "classification": ClassificationHead,
    "scalar_regression": ScalarHead,
    "embedding_generation": EmbeddingHead,
}
"""The head of each task."""

PIXEL_WISE = ("segmentation", "regression")

EMBEDDING_TASK = "embedding_generation"

NUM_CLASSES, NUM_OUTPUTS = "num_classes", "num_outputs"


def get_output_names(task: str) -> tuple[str, str]:
    """Return the task's own argument for the number of predicted values, and the argument of the other tasks."""
    regression = task in ("regression", "scalar_regression")
    return (NUM_OUTPUTS, NUM_CLASSES) if regression else (NUM_CLASSES, NUM_OUTPUTS)


def build_head(task: str, arguments: Arguments, report: Diagnostics) -> Head | None:
    """Build the head that TerraTorch builds for these arguments; None, with problems, where they are invalid."""
    name, other = get_output_names(task)
    if name not in arguments and other in arguments:
        if task != "scalar_regression":
            nouns = "classes" if other == NUM_CLASSES else "outputs but classes"
            fix = f"{name}: {arguments.get(other)}"
            report.add_problem(arguments.locate(other), f"{task} has no {nouns}.", fix, "unused")
            return None
        arguments = arguments.rename(**{other: name})
    if name not in arguments and task != "regression":
        report.add_problem(name, f"{task} needs {name}.", "say how many are to be predicted", "key")
        return None
    if task == "regression":
        arguments = _prepare_regression(arguments, report)
    return construct_part(HEADS[task], arguments, report)


def _prepare_regression(arguments: Arguments, report: Diagnostics) -> Arguments:
    if arguments.get("batch_norm") is False:
        report.add_note(
            arguments.locate("batch_norm"),
            "TerraTorch never reads batch_norm, so the head is built with batch norm.",
            "RegressionHead: {batch_norm: false} does what it says",
        )
        arguments = arguments.drop("batch_norm")
    if arguments.get("final_act") is None:
        return arguments.drop("final_act")
    return arguments.replace(final_act=_parse_activation(arguments, report))


def _parse_activation(arguments: Arguments, report: Diagnostics) -> str | None:
    """Return the name of an activation: a path, `torch.nn.Sigmoid`, or a module. Nothing is imported."""
    act: Any = arguments.get("final_act")
    path = act if isinstance(act, str) else f"{type(act).__module__}.{type(act).__name__}"
    home, _, name = path.rpartition(".")
    known = (home == "torch.nn" or home.startswith("torch.nn.modules.")) and name in FINAL_ACTIVATIONS
    # A module with arguments of its own shows them. Softmax is over the channels.
    if known and (isinstance(act, str) or repr(act) in (repr(type(act)()), "Softmax(dim=1)")):
        return name
    message = f"final_act is torch.nn.X, with X one of {', '.join(FINAL_ACTIVATIONS)} (got {act!r}); "
    report.add_problem(
        arguments.locate("final_act"),
        f"{message}nothing is imported or called by its name.",
        "choose one of these, or apply the function to the model's output",
    )
    return None
