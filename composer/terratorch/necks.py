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
from composer.problem import nearest
from composer.terratorch.arguments import Arguments, Ledger, declared

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


def necks_of(given: Sequence[Mapping[str, Any]] | None, ledger: Ledger) -> list[Neck]:
    """The necks of a call, `[{"name": "SelectIndices", "indices": [2, 5, 8, 11]}, …]`."""
    if given is None:
        return []
    if not isinstance(given, list | tuple):
        ledger.refuse("necks", f"necks is a list of dicts, each with a name (got {given!r}).", code="type")
        return []
    necks = [_neck(entry, f"necks[{position}]", ledger) for position, entry in enumerate(given)]
    return [neck for neck in necks if neck is not None]


def _neck(given: Any, path: str, ledger: Ledger) -> Neck | None:
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        ledger.refuse(path, f"a neck is a dict with a name (got {given!r}).", "{name: SelectIndices, …}", code="type")
        return None
    name = given["name"].removeprefix("terratorch_")
    if name not in NECKS:
        ledger.refuse(f"{path}.name", f"TerraTorch has no neck {name!r}.", nearest(name, NECKS), code="unknown")
        return None
    arguments = Arguments.of(path, {key: value for key, value in given.items() if key != "name"})
    prepared = _PREPARED[name](arguments, ledger) if name in _PREPARED else arguments
    return declared(NECKS[name], prepared, ledger)


def _aggregate(arguments: Arguments, ledger: Ledger) -> Arguments:
    """`indices` is used where it counts as true, and the deprecated `index` elsewhere: 0 and [] are no indices."""
    indices, index = arguments.get("indices"), arguments.get("index", -1)
    if "indices" in arguments and indices is not None and not indices:
        ledger.note(
            arguments.path("indices"),
            f"TerraTorch takes indices: {indices!r} for none, and aggregates level {index}.",
            "AggregateTokens: {indices: [0]} is the first level",
        )
    pooling = arguments.get("pooling", "mean")
    return arguments.without("index", "temporal_inputs").with_(
        indices=indices or index, pooling=pooling.lower() if isinstance(pooling, str) else pooling
    )


def _reshape(arguments: Arguments, _: Ledger) -> Arguments:
    # Per-frame features say themselves that they are.
    return arguments.without("temporal_inputs")


def _permute(arguments: Arguments, _: Ledger) -> Arguments:
    """torch counts axes from the end too; here each is written as it counts from the front."""
    order = arguments.get("new_order")
    if not isinstance(order, list | tuple) or not all(type(axis) is int for axis in order):
        return arguments
    return arguments.with_(new_order=[axis + len(order) if -len(order) <= axis < 0 else axis for axis in order])


def _pyramid(arguments: Arguments, ledger: Ledger) -> Arguments:
    if arguments.get("output_ordered_dict", True):
        ledger.note(
            arguments.path("output_ordered_dict"),
            "TerraTorch gives an ordered dict here, which no decoder of its factory takes; composer gives a tuple.",
        )
    return arguments.without("output_ordered_dict")


_PREPARED = {
    "AggregateTokens": _aggregate,
    "PermuteDims": _permute,
    "ReshapeTokensToImage": _reshape,
    "FeaturePyramidNetworkNeck": _pyramid,
}
