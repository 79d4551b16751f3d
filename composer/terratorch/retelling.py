"""Problems of a translated graph, retold of the arguments of the call that it was made of. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
from attrs import Factory, evolve, frozen

from composer.graph import Graph
from composer.problem import Place, Problem
from composer.terratorch.auxiliary import FIELDS, lawful
from composer.terratorch.necks import NECKS
from composer.terratorch.origins import AUX, NECK, arguments_of

_FIELD = re.compile(r"(?:(?<=leave )|(?<=use )|(?<=set )|^)(?P<name>\w+)(?:: (?P<value>.*)$|(?= out\b| from ))")
"""A field in a repair: `channels: 8`, `leave channels out`, `use out_index from -4 to 3`."""

_INPUT = re.compile(r"input: \{channels: (\d+)\}")
_ENCODERS = re.compile(r"the encoder's (\w+)|(?<=with )its (\w+) or its depth")
_WAY = re.compile(r"necks: \[(.*)\]")
_ONE_NECK = re.compile(r"([A-Z]\w+)(?:: \{(.*?)\})?(?:, (?=[A-Z])|$)")
_POOLING = "TemporalPooling"

_SAID = {
    "leave crop out": "leave image_size_out out",
    "head: EmbeddingHead": "task: embedding_generation",
    "let the encoder give": "let the backbone give",
}
"""What is said otherwise in every call."""


@frozen
class Call:
    """A call of the factory, and the graph that was made of it."""

    arguments: Mapping[str, Any]
    graph: Graph
    _pooled: int = Factory(lambda self: _pooled(self.arguments, self.graph), takes_self=True)
    _branches: Mapping[str, int] = Factory(lambda self: _branches(self.arguments), takes_self=True)

    def retold(self, problem: Problem) -> Problem:
        """A problem of the graph, at the argument that the node or its field was made of.

        Where a field has no argument of its own, the place is that of what encloses it. Nodes are named by their
        arguments, and the repair is what a call would say.
        """
        path = problem.place.path
        given = set(_paths("", self.arguments))
        candidates = arguments_of(path, self._pooled, self._branches)
        message = self._of_arguments(problem.message)
        return evolve(
            problem,
            message=message.replace("crop", "image_size_out") if problem.code == "crop" else message,
            got=None if problem.got is None else self._of_arguments(problem.got),
            place=Place(next((one for one in candidates if one in given), "")),
            repair=None if problem.repair is None else self._repair(path, problem.repair),
        )

    def _of_arguments(self, said: str) -> str:
        """Words about nodes that give or take something, with the arguments for the nodes."""
        for node in self.graph.nodes:
            said = re.sub(rf"(?<![\w.]){re.escape(node.name)}(?= (?:gives|takes) )", self._known_as(node.name), said)
        return said

    def _known_as(self, node: str) -> str:
        if neck := NECK.fullmatch(node):
            position = int(neck[1]) - self._pooled
            return "backbone" if position < 0 else f"necks[{position}]"
        if branch := AUX.fullmatch(node):
            return f"aux_decoders[{self._branches.get(branch[1], 0)}].{branch[2]}"
        return "backbone" if node == "encoder" else node

    def _repair(self, path: str, repair: str) -> str:
        if way := _WAY.fullmatch(repair):
            return self._way(way[1])
        if channels := _INPUT.fullmatch(repair):
            return self._said("backbone", "in_chans", channels[1])
        for said, instead in _SAID.items():
            repair = repair.replace(said, instead)
        repair = _ENCODERS.sub(lambda found: self._said("backbone", found[1] or found[2]), repair)
        node = next((node for node in self.graph.nodes if f"{path}.".startswith(f"{node.name}.")), None)
        fields = attrs.fields_dict(type(node.part)) if node is not None else {}  # type: ignore[arg-type]

        def renamed(found: re.Match[str]) -> str:
            known = node is not None and found["name"] in fields
            return self._of_field(node.name, found["name"], found["value"]) if node and known else found[0]

        return _FIELD.sub(renamed, repair)

    def _of_field(self, node: str, name: str, value: str | None) -> str:
        """The argument that sets a field of a node, with the value that it ought to have if that is known."""
        neck, branch = NECK.fullmatch(node), AUX.fullmatch(node)
        if neck and int(neck[1]) < self._pooled:
            return self._said("backbone", f"temporal_{name}", value)
        component = branch[2] if branch else node
        if neck or (component != "encoder" and name in ("num_classes", "num_outputs")):
            return name if value is None else f"{name}: {value}"
        if branch and component == "decoder":
            return _within("decoder_args", f"decoder_{name}", value)
        return self._said("backbone" if component == "encoder" else component, name, value)

    def _said(self, component: str, name: str, value: str | None = None) -> str:
        """The argument of a component, which begins with its prefix or stands in a dict of its own."""
        if self.arguments.get(f"{component}_kwargs"):
            return _within(f"{component}_kwargs", name, value)
        return f"{component}_{name}" if value is None else f"{component}_{name}: {value}"

    def _way(self, spelled: str) -> str:
        """Necks as a call has them. Frames are pooled by an argument of the backbone, and not by a neck."""
        necks = [(found[1], found[2]) for found in _ONE_NECK.finditer(spelled)]
        if any(name not in NECKS and name != _POOLING for name, _ in necks):
            return f"necks: [{spelled}], in a spec"
        dicts = [f"{{name: {name}{f', {fields}' if fields else ''}}}" for name, fields in necks if name != _POOLING]
        pools = len(dicts) < len(necks) and not self._pooled
        pooled = [self._said("backbone", "temporal_pooling", "mean")] if pools else []
        return "; ".join([*pooled, *([f"necks: [{', '.join(dicts)}]"] if dicts else [])])


def _pooled(arguments: Mapping[str, Any], graph: Graph) -> int:
    """How many necks of the graph, the first ones, are no neck of the call."""
    return max(sum(bool(NECK.fullmatch(node.name)) for node in graph.nodes) - len(arguments.get("necks") or ()), 0)


def _branches(arguments: Mapping[str, Any]) -> Mapping[str, int]:
    """Which of the auxiliary heads each branch is."""
    heads = arguments.get("aux_decoders") or ()
    return {lawful(str(_fields(head).get("name"))): position for position, head in enumerate(heads)}


def _within(owner: str, name: str, value: str | None) -> str:
    return f"{owner}.{name}" if value is None else f"{owner}: {{{name}: {value}}}"


def _paths(path: str, value: Any) -> Iterator[str]:
    """The path of every argument that is given, and of all that their values hold."""
    inner = [(f"{path}.{name}" if path else str(name), one) for name, one in _fields(value).items() if one is not None]
    if isinstance(value, list | tuple):
        inner += [(f"{path}[{position}]", one) for position, one in enumerate(value)]
    for within, one in inner:
        yield within
        yield from _paths(within, one)


def _fields(value: Any) -> Mapping[Any, Any]:
    """What a dict or an auxiliary head holds."""
    if isinstance(value, Mapping):
        return value
    return {name: getattr(value, name) for name in FIELDS} if all(hasattr(value, name) for name in FIELDS) else {}
