"""TerraTorch's necks in terms of composer's. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from composer.parts import (
    AddBottleneckLayer,
    AggregateTokens,
    FeaturePyramidNetworkNeck,
    InterpolateToPyramidal,
    LearnedInterpolateToPyramidal,
    MaxpoolToPyramidal,
    Neck,
    PermuteDims,
    ReshapeTokensToImage,
    SelectIndices,
)
from composer.problem import suggest
from composer.terratorch.arguments import Arguments, Diagnostics, construct_part

NECKS: dict[str, type[Neck]] = {
    neck.__name__: neck
    for neck in (
        SelectIndices,
        AggregateTokens,
        PermuteDims,
        InterpolateToPyramidal,
        MaxpoolToPyramidal,
        ReshapeTokensToImage,
        AddBottleneckLayer,
        LearnedInterpolateToPyramidal,
        FeaturePyramidNetworkNeck,
    )
}
"""The necks of TerraTorch 1.2.11."""


def build_necks(given: Sequence[Mapping[str, Any]] | None, ledger: Diagnostics) -> list[Neck]:
    """The necks of a call, `[{"name": "SelectIndices", "indices": [2, 5, 8, 11]}, …]`."""
    if given is None:
        return []
    if not isinstance(given, list | tuple):
        ledger.add_problem("necks", f"necks is a list of dicts, each with a name (got {given!r}).", code="type")
        return []
    necks = [_build_neck(entry, f"necks[{position}]", ledger) for position, entry in enumerate(given)]
    return [neck for neck in necks if neck is not None]


def _build_neck(given: Any, path: str, ledger: Diagnostics) -> Neck | None:
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        ledger.add_problem(
            path, f"a neck is a dict with a name (got {given!r}).", "{name: SelectIndices, …}", code="type"
        )
        return None
    name = given["name"].removeprefix("terratorch_")
    if name not in NECKS:
        ledger.add_problem(f"{path}.name", f"TerraTorch has no neck {name!r}.", suggest(name, NECKS), code="unknown")
        return None
    arguments = Arguments.from_mapping(path, {key: value for key, value in given.items() if key != "name"})
    prepared = _NECK_PREPARERS[name](arguments, ledger) if name in _NECK_PREPARERS else arguments
    return construct_part(NECKS[name], prepared, ledger)


def _prepare_aggregate(arguments: Arguments, ledger: Diagnostics) -> Arguments:
    """`indices` is used where it counts as true, and the deprecated `index` elsewhere: 0 and [] are no indices."""
    indices, index = arguments.get("indices"), arguments.get("index", -1)
    if "indices" in arguments and indices is not None and not indices:
        ledger.add_note(
            arguments.path("indices"),
            f"TerraTorch takes indices: {indices!r} for none, and aggregates level {index}.",
            "AggregateTokens: {indices: [0]} is the first level",
        )
    pooling = arguments.get("pooling", "mean")
    return arguments.without("index", "temporal_inputs").replace(
        indices=indices or index, pooling=pooling.lower() if isinstance(pooling, str) else pooling
    )


def _prepare_reshape(arguments: Arguments, _: Diagnostics) -> Arguments:
    # Per-frame features say themselves that they are.
    return arguments.without("temporal_inputs")


def _prepare_permute(arguments: Arguments, _: Diagnostics) -> Arguments:
    """torch counts axes from the end too; here each is written as it counts from the front."""
    order = arguments.get("new_order")
    if not isinstance(order, list | tuple) or not all(type(axis) is int for axis in order):
        return arguments
    return arguments.replace(new_order=[axis + len(order) if -len(order) <= axis < 0 else axis for axis in order])


def _prepare_pyramid(arguments: Arguments, ledger: Diagnostics) -> Arguments:
    if arguments.get("output_ordered_dict", True):
        ledger.add_note(
            arguments.path("output_ordered_dict"),
            "TerraTorch gives an ordered dict here, which no decoder of its factory takes; composer gives a tuple.",
        )
    return arguments.without("output_ordered_dict")


_NECK_PREPARERS = {
    "AggregateTokens": _prepare_aggregate,
    "PermuteDims": _prepare_permute,
    "ReshapeTokensToImage": _prepare_reshape,
    "FeaturePyramidNetworkNeck": _prepare_pyramid,
}
