"""Images, frames and padding of backbones, by name and as modules; and TerraTorch's necks as parts."""

from __future__ import annotations

from collections.abc import Mapping
from math import lcm
from typing import Any

from attrs import field, frozen

from composer.errors import suggest
from composer.layouts import Image
from composer.parts import NECKS as BUILT_IN_NECKS
from composer.parts import Encoder, Neck, TemporalPooling
from composer.sizes import Padding
from composer.terratorch.calls import Arguments, Diagnostics, construct


@frozen(kw_only=True)
class Backbone:
    """An encoder with its images, the necks that pool their frames, and the padding that TerraTorch applies for it.

    `images` has each image by its modality, with the name of its input. `fallback` holds the necks of the graph where
    a call has none.
    """

    encoder: Encoder
    images: Mapping[str, tuple[str, Image]]
    pooling: tuple[Neck, ...] = ()
    padding: Padding = field(factory=Padding)
    fallback: tuple[Neck, ...] = ()


TEMPORAL_ARGUMENTS = (
    *("temporal_pooling", "temporal_concat", "temporal_n_timestamps", "temporal_features_permute_op"),
    "temporal_subset_lengths",
)
"""The arguments of a backbone that configure TerraTorch's temporal wrapper, where `use_temporal` is true."""


def parse_temporal_wrapper(arguments: Arguments, report: Diagnostics) -> tuple[Any, tuple[Neck, ...], Arguments]:
    """Return the frames of the image, the neck that pools them, and the other arguments.

    TerraTorch wraps the backbone; here a single-image encoder is applied to each frame, and a neck merges the results.
    """
    rest = arguments.drop("use_temporal", *TEMPORAL_ARGUMENTS)
    if not arguments.get("use_temporal", False):
        report.add_ignored(arguments, TEMPORAL_ARGUMENTS, "use_temporal is not set")
        return None, (), rest
    if arguments.get("temporal_concat") is not None:
        report.add_ignored(arguments, ["temporal_concat"], "it pools as temporal_pooling says", "temporal_pooling: …")
    if arguments.get("temporal_features_permute_op") is not None:
        path = arguments.locate("temporal_features_permute_op")
        report.add_note(path, "frames are concatenated along the channels, or pooled by cell, in any layout.")
    fields = ("pooling", "subset_lengths")
    values = {name: arguments.get(f"temporal_{name}") for name in fields if f"temporal_{name}" in arguments}
    origin = Arguments(arguments.locate("temporal_pooling"), f"{arguments.prefix}temporal_", values)
    neck = construct(TemporalPooling, origin, report)
    frames = arguments.get("temporal_n_timestamps")
    if frames is None and neck is not None:
        frames = sum(neck.subset_lengths or ()) or (2 if neck.pooling == "diff" else None)
        if frames is None:
            fix = f"say how many: {arguments.format_path('temporal_n_timestamps')}"
            path = arguments.locate("use_temporal")
            report.add_problem(path, "the number of frames has to be known.", fix, "key")
    if neck is None or neck == TemporalPooling(pooling="keep"):
        return frames, (), rest
    report.origins["necks[0]"] = origin
    return frames, (neck,), rest


def build_image(channels: Any, frames: Any, arguments: Arguments, report: Diagnostics) -> Image:
    """Build the image of a backbone; with a problem, another one for an invalid number of channels or frames."""
    try:
        return Image(channels=channels, frames=frames)
    except ValueError as error:
        words = "num_frames temporal_n_timestamps" if str(error).startswith("frames") else "in_chans in_channels"
        name = next((word for word in words.split() if word in arguments), "")
        report.add_problem(arguments.locate(name), f"{error}.")
        return Image()


PADDING_MODES = {"reflect": "reflect", "replicate": "replicate", "constant": "zeros", "zeros": "zeros"}
"""torch's padding modes, and their names here."""


def parse_padding(found: int | tuple[int, int] | None, arguments: Arguments, report: Diagnostics) -> Padding:
    """Return TerraTorch's padding: for the patches that a call states, or else for those found in the backbone."""
    mode, patch = arguments.get("padding", "reflect"), arguments.get("patch_size") or found
    if isinstance(mode, str) and mode in PADDING_MODES:
        try:
            # Without patches, TerraTorch does not pad.
            multiple = 2 * lcm(*([patch] if isinstance(patch, int) else patch[-2:])) if patch else 1
            return Padding(mode=PADDING_MODES[mode], multiple=multiple)
        except (TypeError, ValueError) as error:
            report.add_problem(arguments.locate("patch_size"), f"{error}.")
    elif mode is not None:
        report.add_problem(arguments.locate("padding"), f"padding is one of {', '.join(PADDING_MODES)} (got {mode!r}).")
    return Padding()


_NECK_NAMES = (
    "SelectIndices AggregateTokens PermuteDims InterpolateToPyramidal MaxpoolToPyramidal ReshapeTokensToImage "
    "AddBottleneckLayer LearnedInterpolateToPyramidal FeaturePyramidNetworkNeck"
)

NECKS = {neck.__name__: neck for neck in BUILT_IN_NECKS if neck.__name__ in _NECK_NAMES.split()}
"""The necks of TerraTorch 1.2.11."""


def build_necks(necks: Any, first: int, report: Diagnostics) -> list[Neck]:
    """Build the necks of a call, `[{"name": "SelectIndices", "indices": [2, 5, 8, 11]}, …]`.

    `first` is the number of the first of them in the graph, behind those that pool frames.
    """
    if not isinstance(necks, list | tuple):
        report.add_problem("necks", f"necks is a list of dicts, each with a name (got {necks!r}).", code="type")
        return []
    parts = []
    for position, entry in enumerate(necks):
        path = f"necks[{position}]"
        values = dict(entry) if isinstance(entry, Mapping) else {}
        name = str(values.pop("name", "")).removeprefix("terratorch_")
        if name not in NECKS:
            place = f"{path}.name" if name else path
            report.add_problem(place, f"TerraTorch has no neck {name or entry!r}.", suggest(name, NECKS), "part")
            continue
        origin = Arguments(path, f"{path}.", values)
        report.origins[f"necks[{first + position}]"] = origin
        parts.append(construct(NECKS[name], _prepare_neck(name, origin, report), report))
    return [neck for neck in parts if neck is not None]


def _prepare_neck(name: str, arguments: Arguments, report: Diagnostics) -> Arguments:
    """Return the arguments of a neck of TerraTorch as the part has them."""
    if name in ("AggregateTokens", "ReshapeTokensToImage"):
        # Whether features are per frame is known from the features.
        arguments = arguments.drop("temporal_inputs")
    if name == "AggregateTokens":
        # TerraTorch reads `indices` as true or false, so that 0 and [] leave it to the deprecated `index`.
        indices, index, pooling = arguments.get("indices"), arguments.get("index", -1), arguments.get("pooling", "mean")
        if indices is not None and not indices:
            reason = f"{indices!r} counts as none, and it aggregates level {index}"
            report.add_ignored(arguments, ["indices"], reason, "indices: [0] is the first level, in a spec")
        pooling = pooling.lower() if isinstance(pooling, str) else pooling
        return arguments.drop("index").replace(indices=indices or index, pooling=pooling)
    order = arguments.get("new_order")
    if name == "PermuteDims" and isinstance(order, list | tuple) and all(type(axis) is int for axis in order):
        # torch counts negative axes from the end.
        return arguments.replace(new_order=[axis + len(order) if -len(order) <= axis < 0 else axis for axis in order])
    if name == "FeaturePyramidNetworkNeck" and arguments.get("output_ordered_dict", True):
        message = "TerraTorch gives an ordered dict, which no decoder of its factory takes; composer gives a tuple."
        report.add_note(arguments.locate("output_ordered_dict"), message)
    return arguments.drop("output_ordered_dict") if name == "FeaturePyramidNetworkNeck" else arguments
