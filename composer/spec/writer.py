"""Write a graph as a spec."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fractions import Fraction
from hashlib import sha256
from typing import Any

import attrs
from attrs import evolve

from composer.errors import Place, Problem, SpecError
from composer.graph import Graph, Node, Shared, chain, check_is_graph
from composer.parts import PART_REGISTRY, Custom, Decoder, Head, Part
from composer.parts.base import get_part_name
from composer.parts.registry import PartRegistry
from composer.spec.names import Parts
from composer.spec.reader import parse_spec
from composer.spec.schema import OPTIONS, get_fields
from composer.spec.yaml import build_error, format_scalar

MAX_LINE_WIDTH = 100
"""Columns of a line, except for a single value that is longer."""

_BLOCK_SECTIONS = ("necks", "nodes", "aux")
"""Sections that are written line by line, however short they are."""

_BRANCH_KINDS = {"decoder": Decoder, "head": Head}


def write(graph: Graph, *, parts: Parts = PART_REGISTRY) -> str:
    """Return a graph as text: `reads(write(graph)) == graph`. `parts` are the parts that the text may name.

    Raises SpecError if there is no such text: a node holds a live module or a part that is not among `parts`, or the
    graph is not valid because a name is repeated or unknown.
    """
    _require_serializable(graph)
    names = _map_part_names(graph, parts)
    branches = as_chain(graph)
    data = _dump_graph(graph, names) if branches is None else _dump_chain(graph, branches, names)
    if not graph.rescale:
        data["rescale"] = graph.rescale
    if graph.crop is not None:
        data["crop"] = list(graph.crop)
    if padding := get_non_default_fields(graph.padding, "padding"):
        data["padding"] = padding
    text = dump(data)
    # A graph made in Python can hold what a text cannot: an invalid name, 1 for true, a list nested too deep.
    try:
        same = parse_spec(text, None, parts) == graph
    except SpecError as error:
        raise SpecError(evolve(problem, place=Place(problem.place.path)) for problem in error.problems) from None
    if not same:
        raise build_error("yaml", "the graph holds a value that cannot be written in a spec.", Place())
    return text


def digest(graph: Graph) -> str:
    """Return 64 hexadecimal digits that are equal for equal graphs and different for different ones.

    The order of nodes counts, as in `==`; the text that a graph was read from does not. Fields with their default
    value are left out, so that a part can gain a field without changing old digests. Raises SpecError for a node that
    holds a live module or another value that cannot be written in a spec.
    """
    _require_serializable(graph)
    content = [
        [[name, get_non_default_fields(image, name)] for name, image in graph.inputs],
        [[node.name, _describe_part(node.part, node.name), node.inputs] for node in graph.nodes],
        graph.outputs,
        graph.auxiliary,
        graph.rescale,
        get_non_default_fields(graph.padding, "padding"),
        *([graph.crop] if graph.crop else []),
    ]
    return sha256(json.dumps(_normalize_numbers(content)).encode()).hexdigest()


def _require_serializable(graph: Graph) -> None:
    """Raise TypeError for another object, and SpecError for the nodes that hold a live module."""
    check_is_graph(graph)
    message = "Custom holds a live module, which cannot be written in a spec."
    fix = "declare the encoder as a class of your own, and register its contract and module"
    live = [node.name for node in graph.nodes if isinstance(node.part, Custom)]
    if live:
        raise SpecError(Problem(code="yaml", message=message, place=Place(name), fix=fix) for name in live)


def get_written_fields(part: Part, owner: str = "part") -> dict[str, Any]:
    """Return the fields that a spec writes behind the name of a part: those that differ from their defaults."""
    fields = get_non_default_fields(part, owner)
    return {name: value for name, value in fields.items() if part.source is None or name != "name"}


def get_non_default_fields(declaration: Any, owner: str) -> dict[str, Any]:
    """Return the fields that differ from their defaults as plain values.

    Raises SpecError, at a path inside `owner`, for a value that cannot be written in a spec.
    """
    fields = {}
    for name, field in get_fields(type(declaration)).items():
        value = getattr(declaration, field.attribute.name)
        if value != _get_default(field.attribute, declaration):
            plain = dict(value) if field.wanted is OPTIONS else value
            fields[name] = _to_plain_value(plain, f"{owner}.{name}")
    return fields


def _get_default(attribute: attrs.Attribute[Any], declaration: Any) -> Any:
    """Return the value of a field that is not set, after its factory and converter."""
    default: Any = attribute.default
    converter: Any = attribute.converter
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        default = default.factory(declaration) if default.takes_self else default.factory()
    plain = converter is not None and not isinstance(converter, attrs.Converter)
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
    if attrs.has(type(value)):
        return get_non_default_fields(value, path)
    message = f"{type(value).__name__} is not a plain value, so it cannot be written in a spec."
    raise build_error("yaml", message, Place(path))


def _describe_part(part: Part | Shared, owner: str) -> list[Any]:
    if isinstance(part, Shared):
        return ["share", part.node]
    cls = type(part)
    # Our own parts may move from file to file.
    home = "composer" if cls.__module__.startswith("composer.") else cls.__module__
    return [f"{home}.{cls.__qualname__}", get_non_default_fields(part, owner)]


def _normalize_numbers(value: Any) -> Any:
    """Replace numbers that are equal in Python by one of them: graphs that hold 1, 1.0 and true are equal."""
    if isinstance(value, dict):
        return {name: _normalize_numbers(entry) for name, entry in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [_normalize_numbers(entry) for entry in value]
    return int(value) if isinstance(value, bool | float) and float(value).is_integer() else value


def as_chain(graph: Graph) -> dict[str, tuple[str, ...]] | None:
    """Return the node names of each auxiliary branch if the chain form describes exactly this graph, or None."""
    parts = {node.name: node.part for node in graph.nodes if isinstance(node.part, Part)}
    if len(graph.inputs) != 1 or len(parts) < len(graph.nodes):
        return None
    branches = {
        label: tuple(name for kind in _BRANCH_KINDS if (name := f"aux.{label}.{kind}") in parts)
        for label, _ in graph.auxiliary
    }
    ends = [name for names in branches.values() for name in names]
    if not all(isinstance(parts[name], _BRANCH_KINDS[name.rpartition(".")[2]]) for name in ends):
        return None
    aux = {label: [parts[name] for name in names] for label, names in branches.items()}
    trunk = [part for name, part in parts.items() if name not in ends]
    image = graph.inputs[0][1]
    try:
        like = chain(*trunk, aux=aux, input=image, rescale=graph.rescale, crop=graph.crop, padding=graph.padding)
    except ValueError:
        return None
    return branches if like == graph else None


def _map_part_names(graph: Graph, parts: Parts) -> Mapping[type[Part], str]:
    if isinstance(parts, PartRegistry):
        return parts.find_names(type(node.part) for node in graph.nodes if isinstance(node.part, Part))
    return {cls: name for name, cls in parts.items()}


def _dump_chain(
    graph: Graph, branches: Mapping[str, tuple[str, ...]], names: Mapping[type[Part], str]
) -> dict[str, Any]:
    parts = {node.name: _dump_part(node, names) for node in graph.nodes}
    sections = {
        "input": get_non_default_fields(graph.inputs[0][1], "input"),
        "encoder": parts["encoder"],
        "necks": [part for name, part in parts.items() if name.startswith("necks[")],
        "decoder": parts.get("decoder"),
        "head": parts.get("head"),
        "aux": {label: {name.rpartition(".")[2]: parts[name] for name in ends} for label, ends in branches.items()},
    }
    return {name: section for name, section in sections.items() if section}


def _dump_graph(graph: Graph, names: Mapping[type[Part], str]) -> dict[str, Any]:
    data: dict[str, Any] = {
        "inputs": {name: get_non_default_fields(image, name) for name, image in graph.inputs},
        "nodes": {node.name: _dump_node(node, names) for node in graph.nodes},
        "outputs": list(graph.outputs),
    }
    return data | ({"auxiliary": dict(graph.auxiliary)} if graph.auxiliary else {})


def _dump_node(node: Node, names: Mapping[type[Part], str]) -> dict[str, Any]:
    data = {"share": node.part.node} if isinstance(node.part, Shared) else {"part": _dump_part(node, names)}
    if node.named:
        return data | {"from": dict(node.named)}
    return data | {"from": node.inputs[0] if len(node.inputs) == 1 else list(node.inputs)}


def _dump_part(node: Node, names: Mapping[type[Part], str]) -> Any:
    part = node.part
    assert isinstance(part, Part)
    name = names.get(type(part))
    if name is None:
        cls = type(part).__name__
        message = f"{cls} is not among the parts that a text may name."
        raise build_error("yaml", message, Place(node.name), f"hand it in: parts={{**PARTS, {cls!r}: {cls}}}")
    if name.endswith("/"):
        name = f"{name}{part.name}"  # type: ignore[attr-defined]
    elif part.source is not None:
        name = get_part_name(part)
    fields = get_written_fields(part, node.name)
    return {name: fields} if fields else name


def dump(data: Mapping[str, Any]) -> str:
    """Return the YAML of scalars, lists and mappings."""
    return "".join(f"{line}\n" for key, value in data.items() for line in _iter_lines(f"{format_scalar(key)}:", value))


def _iter_lines(lead: str, value: Any, indent: int = 0) -> Iterator[str]:
    """Yield the lines of a value after its key or dash, which is indented by `indent`."""
    line = f"{' ' * indent}{lead} {_format_inline(value)}"
    is_block = indent == 0 and lead.rstrip(":") in _BLOCK_SECTIONS
    if not isinstance(value, list | dict) or not value or (not is_block and len(line) <= MAX_LINE_WIDTH):
        yield line
        return
    yield f"{' ' * indent}{lead}"
    # The lines below a dash begin two columns further right than the dash.
    inside = indent + (4 if lead.startswith("- ") else 2)
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _iter_lines(f"{format_scalar(key)}:", inner, inside)
        return
    for inner in value:
        if isinstance(inner, dict) and len(inner) == 1:
            ((key, fields),) = inner.items()
            yield from _iter_lines(f"- {format_scalar(key)}:", fields, inside)
        else:
            yield from _iter_lines("-", inner, inside)


def format_value(value: Any) -> str:
    """Return plain data as a spec writes it, in one line."""
    return _format_inline(_to_plain_value(value, "value"))


def _format_inline(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{format_scalar(key)}: {_format_inline(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_format_inline, value))}]"
    return format_scalar(value)
