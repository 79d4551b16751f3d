"""The arguments of a call of TerraTorch's factory, by component."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import attrs
from attrs import define, field, frozen

from composer.errors import Place, Problem, SpecError, suggest
from composer.parts import ClassificationHead, EmbeddingHead, Head, Part, RegressionHead, ScalarHead, SegmentationHead
from composer.parts.validators import FINAL_ACTIVATIONS


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


AUXILIARY_FIELDS = ("name", "decoder", "decoder_args")
"""What an auxiliary head has, in TerraTorch's class and in a dict."""


def normalize_branch(name: str) -> str:
    """What a graph calls the branch of this name: `fcn-aux_1` is `fcn_aux_1` there, and `_x` is `aux_x`.

    TerraTorch takes any name without a dot; that of a node is letters, digits and _, and begins with a letter.
    """
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return plain if plain[:1].isalpha() else f"aux{'' if plain.startswith('_') else '_'}{plain}"


def iter_auxiliary_heads(given: Any, ledger: Diagnostics) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The path of each auxiliary head that has all it needs, and the head as a mapping of its three fields.

    No two of them come to one name in the graph.
    """
    if given is None:
        return
    if not isinstance(given, list | tuple):
        ledger.add_problem("aux_decoders", f"aux_decoders is a list of auxiliary heads (got {given!r}).", code="type")
        return
    names: dict[str, str] = {}
    for position, entry in enumerate(given):
        path = f"aux_decoders[{position}]"
        fields = _parse_head_fields(entry, path, ledger)
        if fields is None:
            continue
        name = fields["name"]
        if normalize_branch(name) in names:
            # TerraTorch keeps the last of those that bear one name, and builds the others for nothing.
            other = names[normalize_branch(name)]
            alike = "" if other == name else f", which a graph would call {normalize_branch(name)} too"
            message = f"there is an auxiliary head {other!r} already{alike}."
            ledger.add_problem(f"{path}.name", message, "choose another name", "name")
            continue
        names[normalize_branch(name)] = name
        yield path, fields


def _parse_head_fields(entry: Any, path: str, ledger: Diagnostics) -> dict[str, Any] | None:
    """The fields of one; None, and problems, where they are not as they must be."""
    fields = dict(entry) if isinstance(entry, Mapping) else _get_head_attributes(entry)
    if fields is None:
        repair = "{name: NAME, decoder: FCNDecoder, decoder_args: {…}}"
        ledger.add_problem(
            path, f"an auxiliary head is an AuxiliaryHead or a dict (got {entry!r}).", repair, code="type"
        )
        return None
    before = len(ledger.problems)
    for name in fields:
        if name not in AUXILIARY_FIELDS:
            ledger.add_problem(
                f"{path}.{name}", f"an auxiliary head has no {name!r}.", suggest(name, AUXILIARY_FIELDS), "unused"
            )
    for name in ("name", "decoder"):
        if fields.get(name) is None:
            ledger.add_problem(path, f"an auxiliary head needs a {name}.", code="missing")
    name, arguments = fields.get("name"), fields.get("decoder_args") or {}
    if name is not None and not (isinstance(name, str) and _is_valid_head_name(name)):
        message = f"a name has from 1 to 60 characters, and no dot (got {name!r})."
        ledger.add_problem(f"{path}.name", message, "choose another name", "name")
    if not isinstance(arguments, Mapping):
        message = f"decoder_args is a dict of arguments (got {arguments!r})."
        ledger.add_problem(f"{path}.decoder_args", message, "{decoder_channels: 256}", "type")
    return {**fields, "decoder_args": arguments} if len(ledger.problems) == before else None


def _is_valid_head_name(name: str) -> bool:
    return 1 <= len(name) <= 60 and "." not in name


def _get_head_attributes(entry: Any) -> dict[str, Any] | None:
    """The fields of an object of TerraTorch's class, or of ours."""
    return (
        {field: getattr(entry, field) for field in AUXILIARY_FIELDS}
        if all(hasattr(entry, f) for f in AUXILIARY_FIELDS)
        else None
    )


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


def build_head(task: str, arguments: Arguments, ledger: Diagnostics) -> Head | None:
    """The head that TerraTorch would really have used for these arguments; None where there is none."""
    if task == "scalar_regression" and "num_outputs" not in arguments:
        arguments = arguments.rename(num_classes="num_outputs")
    needed = {"segmentation": "num_classes", "classification": "num_classes", "scalar_regression": "num_outputs"}
    if task in needed and needed[task] not in arguments:
        _report_missing_outputs(task, needed[task], arguments, ledger)
        return None
    if task == "regression":
        arguments = _prepare_regression(arguments, ledger)
    return construct_part(HEADS[task], arguments, ledger)


def _report_missing_outputs(task: str, name: str, arguments: Arguments, ledger: Diagnostics) -> None:
    """Say that a head is not told how much it predicts, or is told so under the name that other tasks have for it."""
    other = "num_outputs"
    if other in arguments:
        ledger.add_problem(
            arguments.path(other), f"{task} has no outputs but classes.", f"{name}: {arguments.get(other)}", "unused"
        )
    else:
        ledger.add_problem(name, f"{task} needs {name}.", "say how many are to be predicted", code="missing")


def _prepare_regression(arguments: Arguments, ledger: Diagnostics) -> Arguments:
    if "num_classes" in arguments and "num_outputs" not in arguments:
        ledger.add_problem(
            arguments.path("num_classes"),
            "regression has no classes.",
            f"num_outputs: {arguments.get('num_classes')}",
            code="unused",
        )
        arguments = arguments.without("num_classes")
    if arguments.get("batch_norm") is False:
        ledger.add_note(
            arguments.path("batch_norm"),
            "TerraTorch never reads batch_norm, so the head is built with batch norm.",
            "RegressionHead: {batch_norm: false} does what it says",
        )
        arguments = arguments.without("batch_norm")
    if arguments.get("final_act") is None:
        return arguments.without("final_act")
    return arguments.replace(final_act=_parse_activation(arguments, ledger))


def _parse_activation(arguments: Arguments, ledger: Diagnostics) -> str | None:
    """The name of an activation that is given as a path, `torch.nn.Sigmoid`, or as a module. Nothing is imported."""
    given: Any = arguments.get("final_act")
    path = given if isinstance(given, str) else f"{type(given).__module__}.{type(given).__name__}"
    home, _, name = path.rpartition(".")
    ours = home == "torch.nn" or home.startswith("torch.nn.modules.")
    # A module that was made with arguments of its own shows them.
    plain = isinstance(given, str) or repr(given) in (
        f"{name}()",
        f"{name}(dim=None)",
        f"{name}(dim=1)",
        _DEFAULT_REPRS.get(name),
    )
    if ours and plain and name in FINAL_ACTIVATIONS:
        return name
    message = f"final_act is torch.nn.X, with X one of {', '.join(FINAL_ACTIVATIONS)} (got {given!r}); "
    ledger.add_problem(
        arguments.path("final_act"),
        f"{message}nothing is imported or called by its name.",
        "choose one of these, or apply the function to the model's output",
    )
    return None


_DEFAULT_REPRS = {
    "GELU": "GELU(approximate='none')",
    "LeakyReLU": "LeakyReLU(negative_slope=0.01)",
    "ELU": "ELU(alpha=1.0)",
    "Softplus": "Softplus(beta=1.0, threshold=20.0)",
}
"""How modules with arguments look that were made without any."""
