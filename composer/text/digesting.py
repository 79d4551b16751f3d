"""A short name for a graph: equal for equal graphs, different for different ones. No torch here."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from composer.graph import Graph, Shared
from composer.parts import Part
from composer.text.plain import get_non_default_fields, require_serializable


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
