"""Report problems of a translated graph in terms of the call."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
from attrs import Factory, evolve, frozen

from composer.errors import Place, Problem
from composer.graph import Graph, Node, Shared
from composer.parts import Encoder, get_part_name
from composer.parts.base import contract
from composer.parts.rules import Outputs, compute_implied_sizes
from composer.terratorch.backbones import NECKS
from composer.terratorch.calls import AUXILIARY_FIELDS, normalize_branch
from composer.typed_graph import TypedGraph

_SECTION_ARGUMENTS = {
    "image": "backbone_in_chans",
    "crop": "image_size_out",
    "rescale": "rescale",
    "padding": "backbone",
}
"""What stands in a graph beside its nodes, and the argument that says it."""


NECK_PATTERN = re.compile(r"necks\[(\d+)\](.*)")


AUX_PATTERN = re.compile(r"aux\.([^.]+)\.?(.*)")


def iter_source_arguments(path: str, pooled: int, auxiliary: Mapping[str, int]) -> Iterator[str]:
    """The arguments that may have made what stands at a path of the graph, the likeliest first.

    The first `pooled` necks pool frames, and are no neck of the call; `auxiliary` gives the position of each auxiliary
    head by the name of its branch.
    """
    if neck := NECK_PATTERN.fullmatch(path):
        position = int(neck[1]) - pooled
        if position < 0:
            yield from ("backbone_temporal_pooling", "backbone_kwargs.temporal_pooling", "backbone")
            return
        yield from _iter_enclosing_paths(f"necks[{position}]{neck[2]}")
    elif branch := AUX_PATTERN.fullmatch(path):
        yield from _iter_branch_arguments(branch[2], f"aux_decoders[{auxiliary.get(branch[1], 0)}]")
    elif path.split(".")[0] in _SECTION_ARGUMENTS:
        yield _SECTION_ARGUMENTS[path.split(".")[0]]
        yield "backbone"
    else:
        yield from _iter_trunk_arguments(path)


def _iter_trunk_arguments(path: str) -> Iterator[str]:
    node, _, fields = path.partition(".")
    argument = "backbone" if node == "encoder" else node
    name = fields.removeprefix("options.")
    if name:
        yield from _iter_enclosing_paths(f"{argument}_{name}")
        yield from _iter_enclosing_paths(f"{argument}_kwargs.{name}")
    if node == "head":
        # The task chooses the head; how much it predicts is said beside it.
        yield from (*_iter_enclosing_paths(name), "task")
    yield argument


def _iter_branch_arguments(path: str, argument: str) -> Iterator[str]:
    if path.startswith("head"):
        # The main head's arguments are those of the auxiliary ones too.
        yield from _iter_trunk_arguments(path)
    _, _, fields = path.partition(".")
    if fields:
        yield from _iter_enclosing_paths(f"{argument}.decoder_args.decoder_{fields.removeprefix('options.')}")
    yield from _iter_enclosing_paths(f"{argument}.decoder")


def _iter_enclosing_paths(path: str) -> Iterator[str]:
    """A path, then each that encloses it."""
    while path:
        yield path
        path = path[: max(path.rfind("."), path.rfind("["), 0)]


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
            repair=None if problem.repair is None else self._translate_repair(path, str(problem.repair)),
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


def find_padding_note(typed: TypedGraph) -> Problem | None:
    """A note on the node that needs it, where images of some sizes are padded here, and go in as they are there.

    TerraTorch pads for patches alone. Where maps do not cover whole cells, it stretches what a part makes of them.
    """
    sizes, there = typed.sizes, typed.graph.padding.multiple
    if any(facts.patch for facts in typed.facts.values()):
        return None
    if sizes.height is not None and "encoder" in typed.facts:
        return _build_padding_note("encoder", f"the network takes images of {sizes.height} × {sizes.width}")
    node = next(
        (node for node in typed.order if sizes.multiple > there and _compute_required_multiple(typed, node) > there),
        None,
    )
    if node is None:
        return None
    needy = "the network" if isinstance(node.part, Encoder | Shared) else get_part_name(node.part)
    return _build_padding_note(node.name, f"{needy} needs sides that are multiples of {sizes.multiple}")


def _build_padding_note(node: str, need: str) -> Problem:
    message = (
        f"{need}: others are padded, and cropped. TerraTorch feeds them as they are, and gives other numbers or fails."
    )
    return Problem(code="terratorch", message=message, place=Place(node))


def _compute_required_multiple(typed: TypedGraph, node: Node) -> int:
    """What a node alone asks the sides of images to be multiples of."""
    multiples = [compute_implied_sizes(feature).multiple for feature in typed.features[node.name]]
    if node.name in typed.facts:
        multiples.append(typed.facts[node.name].sizes.multiple)
    elif not isinstance(node.part, Shared):
        outcome = contract(node.part, *(typed.features[source] for source in node.positional))
        multiples.append(outcome.sizes.multiple if isinstance(outcome, Outputs) else 1)
    return max(multiples)
