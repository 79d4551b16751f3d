"""TerraTorch's wrapper for frames, in terms of an image that has them and a neck that pools them. No torch here."""

from __future__ import annotations

from typing import Any

from composer.feature import Features, format_count
from composer.parts import Neck, TemporalPooling
from composer.terratorch.arguments import Arguments, Diagnostics, construct_part

TEMPORAL_ARGUMENTS = (
    "use_temporal",
    "temporal_pooling",
    "temporal_concat",
    "temporal_n_timestamps",
    "temporal_features_permute_op",
    "temporal_subset_lengths",
)
"""The arguments of a backbone that are the wrapper's."""


def parse_temporal_wrapper(arguments: Arguments, ledger: Diagnostics) -> tuple[int | None, tuple[Neck, ...], Arguments]:
    """The frames of the image, the neck that pools them, and the arguments without what says so.

    TerraTorch wraps the backbone; here an encoder of stills runs on each frame, and a neck pools what it gives. That
    knows which axis is which, so that `temporal_features_permute_op` has to say no more than it does.
    """
    rest = arguments.without(*TEMPORAL_ARGUMENTS)
    if not arguments.get("use_temporal", False):
        for name in TEMPORAL_ARGUMENTS[1:]:
            if name in arguments:
                ledger.add_note(arguments.path(name), f"TerraTorch ignores {name} without use_temporal.")
        return None, (), rest
    if arguments.get("temporal_concat") is not None:
        ledger.add_note(
            arguments.path("temporal_concat"), "TerraTorch ignores temporal_concat.", "temporal_pooling: concat"
        )
    neck = _build_temporal_pooling(arguments, ledger)
    if arguments.get("temporal_features_permute_op") is not None and neck is not None and neck.pooling != "concat":
        path = arguments.path("temporal_features_permute_op")
        message = "TerraTorch undoes temporal_features_permute_op once frames are pooled, which goes by cells"
        ledger.add_note(path, f"{message}: it has no effect.")
    frames = _resolve_frame_count(arguments, neck, ledger)
    return frames, () if neck is None or neck == TemporalPooling(pooling="keep") else (neck,), rest


def check_permutation(arguments: Arguments, features: Features, ledger: Diagnostics) -> None:
    """Refuse a `temporal_features_permute_op` that lays frames side by side along another axis than the channels.

    TerraTorch lays them along the axis that the permutation brings to the second place, of whatever layout.
    """
    order = arguments.get("temporal_features_permute_op")
    if order is None or not arguments.get("use_temporal", False) or arguments.get("temporal_pooling") != "concat":
        return
    places = sorted({feature.axes.split().index("c") for feature in features if "n" not in feature.axes.split()})
    second = order[1] if isinstance(order, list | tuple) and len(order) > 1 else order
    if places in ([], [second]):
        return
    ledger.add_problem(
        arguments.path("temporal_features_permute_op"),
        f"the frames would lie side by side along axis {second!r} of each map, and its channels are axis {places[0]}.",
        f"{'backbone_' if arguments.owner == 'backbone' else ''}temporal_features_permute_op: "
        f"{'[0, 3, 1, 2]' if places == [3] else 'null'}",
    )


def _build_temporal_pooling(arguments: Arguments, ledger: Diagnostics) -> TemporalPooling | None:
    fields = Arguments(
        arguments.owner,
        {
            "pooling": arguments.get("temporal_pooling", "mean"),
            "subset_lengths": arguments.get("temporal_subset_lengths"),
        },
        {"pooling": arguments.path("temporal_pooling"), "subset_lengths": arguments.path("temporal_subset_lengths")},
    )
    return construct_part(TemporalPooling, fields, ledger)


def _resolve_frame_count(arguments: Arguments, neck: TemporalPooling | None, ledger: Diagnostics) -> int | None:
    """How many frames there are: as many as are stated, or as the pooling asks for."""
    stated: Any = arguments.get("temporal_n_timestamps")
    if stated is not None and (type(stated) is not int or stated < 1):
        path = arguments.path("temporal_n_timestamps")
        ledger.add_problem(path, f"temporal_n_timestamps is a whole number of at least 1 (got {stated!r}).")
        return None
    if neck is None:
        return None
    divided = None if neck.subset_lengths is None else sum(neck.subset_lengths)
    if stated is not None and divided not in (None, stated):
        ledger.add_problem(
            arguments.path("temporal_subset_lengths"),
            f"temporal_subset_lengths come to {format_count(divided, 'frame')}, and temporal_n_timestamps is {stated}.",
            f"temporal_n_timestamps: {divided}",
        )
    found: int | None = stated or divided or (2 if neck.pooling == "diff" else None)
    if found is None:
        ledger.add_problem(
            arguments.path("use_temporal"),
            "the number of frames has to be known.",
            f"say how many: {'backbone_temporal' if arguments.owner == 'backbone' else 'temporal'}_n_timestamps",
            code="missing",
        )
    return found
