"""Problems of a translated graph, retold of the arguments of the call that it was made of. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
from attrs import Factory, evolve, frozen

from composer.graph import Graph
from composer.problem import Place, Problem
from composer.terratorch.auxiliary import AUXILIARY_FIELDS, normalize_branch
from composer.terratorch.necks import NECKS
from composer.terratorch.origins import AUX_PATTERN, NECK_PATTERN, iter_source_arguments

_FIELD_PATTERN = re.compile(r"(?:(?<=leave )|(?<=use )|(?<=set )|^)(?P<name>\w+)(?:: (?P<value>.*)$|(?= out\b| from ))")
"""A field in a repair: `channels: 8`, `leave channels out`, `use out_index from -4 to 3`."""

_INPUT_PATTERN = re.compile(r"input: \{channels: (\d+)\}")
_ENCODER_FIELD_PATTERN = re.compile(r"the encoder's (\w+)|(?<=with )its (\w+) or its depth")
_NECKS_PATTERN = re.compile(r"necks: \[(.*)\]")
_NECK_ENTRY_PATTERN = re.compile(r"([A-Z]\w+)(?:: \{(.*?)\})?(?:, (?=[A-Z])|$)")
_POOLING_NECK = "TemporalPooling"

_REPLACEMENTS = {
    "leave crop out": "leave image_size_out out",
    "head: EmbeddingHead": "task: embedding_generation",
    "let the encoder give": "let the backbone give",
}
"""What is said otherwise in every call."""


@frozen
class FactoryCall:
    """A call of the factory, and the graph that was made of it."""

    arguments: Mapping[str, Any]
    graph: Graph
    _pooled: int = Factory(lambda self: _count_pooling_necks(self.arguments, self.graph), takes_self=True)
    _branches: Mapping[str, int] = Factory(lambda self: _map_branches(self.arguments), takes_self=True)

    def map_problem(self, problem: Problem) -> Problem:
        """A problem of the graph, at the argument that the node or its field was made of.

        Where a field has no argument of its own, the place is that of what encloses it. Nodes are named by their
        arguments, and the repair is what a call would say.
        """
        path = problem.place.path
        given = set(_iter_argument_paths("", self.arguments))
        candidates = iter_source_arguments(path, self._pooled, self._branches)
        message = self._rename_nodes(problem.message)
        return evolve(
            problem,
            message=message.replace("crop", "image_size_out") if problem.code == "crop" else message,
            got=None if problem.got is None else self._rename_nodes(problem.got),
            place=Place(next((one for one in candidates if one in given), "")),
            repair=None if problem.repair is None else self._translate_repair(path, problem.repair),
        )

    def _rename_nodes(self, said: str) -> str:
        """Words about nodes that give or take something, with the arguments for the nodes."""
        for node in self.graph.nodes:
            said = re.sub(
                rf"(?<![\w.]){re.escape(node.name)}(?= (?:gives|takes) )", self._get_argument_path(node.name), said
            )
        return said

    def _get_argument_path(self, node: str) -> str:
        if neck := NECK_PATTERN.fullmatch(node):
            position = int(neck[1]) - self._pooled
            return "backbone" if position < 0 else f"necks[{position}]"
        if branch := AUX_PATTERN.fullmatch(node):
            return f"aux_decoders[{self._branches.get(branch[1], 0)}].{branch[2]}"
        return "backbone" if node == "encoder" else node

    def _translate_repair(self, path: str, repair: str) -> str:
        if way := _NECKS_PATTERN.fullmatch(repair):
            return self._format_necks(way[1])
        if channels := _INPUT_PATTERN.fullmatch(repair):
            return self._format_argument("backbone", "in_chans", channels[1])
        for said, instead in _REPLACEMENTS.items():
            repair = repair.replace(said, instead)
        repair = _ENCODER_FIELD_PATTERN.sub(
            lambda found: self._format_argument("backbone", found[1] or found[2]), repair
        )
        node = next((node for node in self.graph.nodes if f"{path}.".startswith(f"{node.name}.")), None)
        fields = attrs.fields_dict(type(node.part)) if node is not None else {}  # type: ignore[arg-type]

        def rename_field(found: re.Match[str]) -> str:
            known = node is not None and found["name"] in fields
            return self._format_field(node.name, found["name"], found["value"]) if node and known else found[0]

        return _FIELD_PATTERN.sub(rename_field, repair)

    def _format_field(self, node: str, name: str, value: str | None) -> str:
        """The argument that sets a field of a node, with the value that it ought to have if that is known."""
        neck, branch = NECK_PATTERN.fullmatch(node), AUX_PATTERN.fullmatch(node)
        if neck and int(neck[1]) < self._pooled:
            return self._format_argument("backbone", f"temporal_{name}", value)
        component = branch[2] if branch else node
        if neck or (component != "encoder" and name in ("num_classes", "num_outputs")):
            return name if value is None else f"{name}: {value}"
        if branch and component == "decoder":
            return _format_within("decoder_args", f"decoder_{name}", value)
        return self._format_argument("backbone" if component == "encoder" else component, name, value)

    def _format_argument(self, component: str, name: str, value: str | None = None) -> str:
        """The argument of a component, which begins with its prefix or stands in a dict of its own."""
        if self.arguments.get(f"{component}_kwargs"):
            return _format_within(f"{component}_kwargs", name, value)
        return f"{component}_{name}" if value is None else f"{component}_{name}: {value}"

    def _format_necks(self, spelled: str) -> str:
        """Necks as a call has them. Frames are pooled by an argument of the backbone, and not by a neck."""
        necks = [(found[1], found[2]) for found in _NECK_ENTRY_PATTERN.finditer(spelled)]
        if any(name not in NECKS and name != _POOLING_NECK for name, _ in necks):
            return f"necks: [{spelled}], in a spec"
        dicts = [
            f"{{name: {name}{f', {fields}' if fields else ''}}}" for name, fields in necks if name != _POOLING_NECK
        ]
        pools = len(dicts) < len(necks) and not self._pooled
        pooled = [self._format_argument("backbone", "temporal_pooling", "mean")] if pools else []
        return "; ".join([*pooled, *([f"necks: [{', '.join(dicts)}]"] if dicts else [])])


def _count_pooling_necks(arguments: Mapping[str, Any], graph: Graph) -> int:
    """How many necks of the graph, the first ones, are no neck of the call."""
    return max(
        sum(bool(NECK_PATTERN.fullmatch(node.name)) for node in graph.nodes) - len(arguments.get("necks") or ()), 0
    )


def _map_branches(arguments: Mapping[str, Any]) -> Mapping[str, int]:
    """Which of the auxiliary heads each branch is."""
    heads = arguments.get("aux_decoders") or ()
    return {
        normalize_branch(str(_get_argument_fields(head).get("name"))): position for position, head in enumerate(heads)
    }


def _format_within(owner: str, name: str, value: str | None) -> str:
    return f"{owner}.{name}" if value is None else f"{owner}: {{{name}: {value}}}"


def _iter_argument_paths(path: str, value: Any) -> Iterator[str]:
    """The path of every argument that is given, and of all that their values hold."""
    inner = [
        (f"{path}.{name}" if path else str(name), one)
        for name, one in _get_argument_fields(value).items()
        if one is not None
    ]
    if isinstance(value, list | tuple):
        inner += [(f"{path}[{position}]", one) for position, one in enumerate(value)]
    for within, one in inner:
        yield within
        yield from _iter_argument_paths(within, one)


def _get_argument_fields(value: Any) -> Mapping[Any, Any]:
    """What a dict or an auxiliary head holds."""
    if isinstance(value, Mapping):
        return value
    return (
        {name: getattr(value, name) for name in AUXILIARY_FIELDS}
        if all(hasattr(value, name) for name in AUXILIARY_FIELDS)
        else {}
    )
