"""From a graph to its text. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import evolve, frozen

from composer.graph import Graph, Node, Shared
from composer.parts import Part, PartRegistry, get_part_name
from composer.problem import Place, Problem, SpecError
from composer.text.chains import as_chain
from composer.text.layout import dump
from composer.text.plain import get_non_default_fields, require_serializable
from composer.text.reading import parse_spec
from composer.text.suggesting import Parts


def format_spec(graph: Graph, parts: Parts) -> str:
    """The text that is read as `graph`. Raises SpecError where there is none, with what stands in the way."""
    require_serializable(graph)
    text = dump(_SpecWriter(_map_part_names(graph, parts)).data(graph))
    # A graph made in Python may hold what no text says: a name that is none, 1 for true, a list without an end.
    try:
        same = parse_spec(text, None, parts) == graph
    except SpecError as error:
        raise SpecError(evolve(problem, place=Place(problem.place.path)) for problem in error.problems) from None
    if not same:
        raise SpecError([Problem(code="text", message="the graph holds something that no text says.")])
    return text


def _map_part_names(graph: Graph, parts: Parts) -> Mapping[type[Part], str]:
    if isinstance(parts, PartRegistry):
        return parts.find_names(type(node.part) for node in graph.nodes if isinstance(node.part, Part))
    return {cls: name for name, cls in parts.items()}


@frozen
class _SpecWriter:
    """Turns a graph into scalars, lists and mappings. `names` are what a text calls the classes of parts."""

    names: Mapping[type[Part], str]

    def data(self, graph: Graph) -> dict[str, Any]:
        """The sections of the text: as a chain where that says the same."""
        branches = as_chain(graph)
        data = self._dump_graph(graph) if branches is None else self._dump_chain(graph, branches)
        if not graph.rescale:
            data["rescale"] = graph.rescale
        if graph.crop is not None:
            data["crop"] = list(graph.crop)
        padding = get_non_default_fields(graph.padding, "padding")
        return data | ({"padding": padding} if padding else {})

    def _dump_chain(self, graph: Graph, branches: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
        image = get_non_default_fields(graph.inputs[0][1], "input")
        data: dict[str, Any] = {"input": image} if image else {}
        parts = {node.name: self._dump_part(node) for node in graph.nodes}
        data["encoder"] = parts["encoder"]
        necks = [part for name, part in parts.items() if name.startswith("necks[")]
        data |= {"necks": necks} if necks else {}
        data |= {name: parts[name] for name in ("decoder", "head") if name in parts}
        aux = {label: {name.rpartition(".")[2]: parts[name] for name in names} for label, names in branches.items()}
        return data | ({"aux": aux} if aux else {})

    def _dump_graph(self, graph: Graph) -> dict[str, Any]:
        data: dict[str, Any] = {
            "inputs": {name: get_non_default_fields(image, name) for name, image in graph.inputs},
            "nodes": {node.name: self._dump_node(node) for node in graph.nodes},
            "outputs": list(graph.outputs),
        }
        return data | ({"auxiliary": dict(graph.auxiliary)} if graph.auxiliary else {})

    def _dump_node(self, node: Node) -> dict[str, Any]:
        what = {"share": node.part.node} if isinstance(node.part, Shared) else {"part": self._dump_part(node)}
        if node.named:
            return what | {"from": dict(node.named)}
        return what | {"from": node.inputs[0] if len(node.inputs) == 1 else list(node.inputs)}

    def _dump_part(self, node: Node) -> Any:
        part = node.part
        assert isinstance(part, Part)
        name = self.names.get(type(part))
        if name is None:
            cls = type(part).__name__
            message = f"{cls} is not among the parts that a text may name."
            repair = f"hand it in: parts={{**PARTS, {cls!r}: {cls}}}"
            raise SpecError([Problem(code="text", message=message, place=Place(node.name), repair=repair)])
        given = {} if part.source is None else {"name": part.name}  # type: ignore[attr-defined]
        if name.endswith("/"):
            name = f"{name}{given['name']}"
        elif given:
            name = get_part_name(part)
        fields = get_non_default_fields(part, node.name, given)
        return {name: fields} if fields else name
