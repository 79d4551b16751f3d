"""Write a graph as a spec."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fractions import Fraction
from hashlib import sha256
from typing import Any

import attrs
from attrs import evolve, frozen

from composer.errors import Place, Problem, SpecError
from composer.graph import Graph, Node, Shared, chain
from composer.parts import Custom, Decoder, Head, Part, PartRegistry, WeightsFile, get_part_name
from composer.spec.parts import Parts, get_fields
from composer.spec.reader import parse_spec
from composer.spec.schema import OPTIONS
from composer.spec.yaml import format_scalar


def get_non_default_fields(declaration: Any, owner: str, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The fields that differ from their defaults, but for those `given` elsewhere.

    Raises SpecError naming `owner` for a value that has no text.
    """
    found = {}
    for name, field in get_fields(type(declaration)).items():
        value = getattr(declaration, field.attribute.name)
        if name not in (given or {}) and value != _get_default(field.attribute, declaration):
            named = dict(value) if field.wanted is OPTIONS else value
            found[name] = _to_plain_value(named, f"{owner}.{name}")
    return found


def require_serializable(graph: Graph) -> None:
    """Raise SpecError for the nodes that hold a live module."""
    live = [node.name for node in graph.nodes if isinstance(node.part, Custom)]
    if live:
        raise SpecError(
            Problem(
                code="text",
                message="Custom holds a live module, which has no text.",
                place=Place(name),
                repair="declare the encoder as a class of your own, and register its contract and module",
            )
            for name in live
        )


def _get_default(attribute: attrs.Attribute[Any], declaration: Any) -> Any:
    """The value of a field that nobody gave; a factory's and a converter's, as attrs has it."""
    default: Any = attribute.default
    converter: Any = attribute.converter
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        default = default.factory(declaration) if default.takes_self else default.factory()
    plain = converter is not None and not isinstance(converter, getattr(attrs, "Converter", ()))
    return converter(default) if plain and default is not attrs.NOTHING else default


def _to_plain_value(value: Any, path: str) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Fraction):
        return value.numerator if value.denominator == 1 else str(value)
    if isinstance(value, list | tuple):
        return [_to_plain_value(entry, path) for entry in value]
    if isinstance(value, dict):
        return {str(name): _to_plain_value(entry, path) for name, entry in value.items()}
    if isinstance(value, WeightsFile):
        return get_non_default_fields(value, path)
    message = f"{type(value).__name__} is no plain value, so it has no text."
    raise SpecError([Problem(code="text", message=message, place=Place(path))])


_BRANCH_KINDS = {"decoder": Decoder, "head": Head}


def as_chain(graph: Graph) -> dict[str, tuple[str, ...]] | None:
    """The nodes of each auxiliary branch, where the graph is exactly what the chain form reads into; None elsewhere."""
    parts = {node.name: node.part for node in graph.nodes if isinstance(node.part, Part)}
    if len(graph.inputs) != 1 or len(parts) < len(graph.nodes):
        return None
    branches = {
        label: tuple(name for end in _BRANCH_KINDS if (name := f"aux.{label}.{end}") in parts)
        for label, _ in graph.auxiliary
    }
    ends = [name for names in branches.values() for name in names]
    fitting = all(isinstance(parts[name], _BRANCH_KINDS[name.rpartition(".")[2]]) for name in ends)
    if not fitting or not all(names[:1] == (f"aux.{label}.decoder",) for label, names in branches.items()):
        return None
    trunk = [part for name, part in parts.items() if name not in ends]
    aux = {label: tuple(parts[name] for name in names) for label, names in branches.items()}
    try:
        like = chain(
            *trunk, aux=aux, input=graph.inputs[0][1], rescale=graph.rescale, crop=graph.crop, padding=graph.padding
        )
    except ValueError:
        return None
    return branches if like == graph else None


def compute_digest(graph: Graph) -> str:
    """SHA-256 over all that counts when graphs are compared.

    Fields that have their default are left out, so that a part may gain a field and old digests still hold.
    Raises SpecError where a node holds what has no text.
    """
    require_serializable(graph)
    everything = [
        [[name, get_non_default_fields(image, name)] for name, image in graph.inputs],
        [[node.name, _describe_part(node.part, node.name), node.inputs] for node in graph.nodes],
        graph.outputs,
        graph.auxiliary,
        graph.rescale,
        get_non_default_fields(graph.padding, "padding"),
        *([graph.crop] if graph.crop else []),
    ]
    return sha256(json.dumps(_normalize_numbers(everything)).encode()).hexdigest()


def _describe_part(part: Part | Shared, owner: str) -> list[Any]:
    if isinstance(part, Shared):
        return ["share", part.node]
    cls = type(part)
    # Our own parts may move from file to file.
    home = "composer" if cls.__module__.startswith("composer.") else cls.__module__
    return [f"{home}.{cls.__qualname__}", get_non_default_fields(part, owner)]


def _normalize_numbers(value: Any) -> Any:
    """Numbers that are equal in Python as one number: graphs that hold 1, 1.0 and true are equal."""
    if isinstance(value, dict):
        return {name: _normalize_numbers(entry) for name, entry in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [_normalize_numbers(entry) for entry in value]
    return int(value) if isinstance(value, bool | float) and float(value).is_integer() else value


MAX_LINE_WIDTH = 100
"""The longest line, but for a single value that is longer."""


_BLOCK_SECTIONS = ("necks", "nodes", "aux")
"""Sections that stand line by line however short they are."""


def dump(data: Mapping[str, Any]) -> str:
    """The text of scalars, lists and mappings."""
    lines = (
        line
        for key, value in data.items()
        for line in _iter_lines(f"{format_scalar(key)}:", value, opened=key in _BLOCK_SECTIONS)
    )
    return "".join(f"{line}\n" for line in lines)


def _iter_lines(lead: str, value: Any, indent: int = 0, *, opened: bool = False) -> Iterator[str]:
    """The lines of a value after its key or dash, which stand at `indent`."""
    line = f"{' ' * indent}{lead} {_format_inline(value)}"
    if not isinstance(value, list | dict) or not value or (not opened and len(line) <= MAX_LINE_WIDTH):
        yield line
        return
    yield f"{' ' * indent}{lead}"
    # What stands below a dash begins two columns further right than the dash does.
    within = indent + (4 if lead.startswith("- ") else 2)
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _iter_lines(f"{format_scalar(key)}:", inner, within)
        return
    for inner in value:
        if isinstance(inner, dict) and len(inner) == 1:
            ((key, fields),) = inner.items()
            yield from _iter_lines(f"- {format_scalar(key)}:", fields, within)
        else:
            yield from _iter_lines("-", inner, within)


def format_value(value: Any) -> str:
    """Return plain data as a spec writes it, in one line."""
    return _format_inline(_to_plain_value(value, "value"))


def _format_inline(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{format_scalar(key)}: {_format_inline(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_format_inline, value))}]"
    return format_scalar(value)


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
