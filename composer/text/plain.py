"""Declarations as plain values: what a text and a digest say of their fields. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import attrs

from composer.graph import Graph
from composer.parts import Custom, WeightsFile
from composer.problem import Place, Problem, SpecError
from composer.text.annotations import OPTIONS
from composer.text.declaring import get_fields


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
