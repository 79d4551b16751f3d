"""TerraTorch's backbones and necks as parts."""

from __future__ import annotations

from collections.abc import Mapping
from math import lcm
from typing import Any

from attrs import evolve, field, frozen

from composer.adapters.terratorch.parts import FAMILIES, UNREGISTERED
from composer.errors import suggest
from composer.inference import Describe
from composer.layouts import Image
from composer.parts import NECKS as BUILT_IN_NECKS
from composer.parts import Encoder, EncoderInfo, Neck, TemporalPooling, Timm
from composer.parts.base import get_part_name
from composer.parts.encoders import FORBIDDEN_TIMM_OPTIONS
from composer.parts.rules import Rejection
from composer.sizes import Padding
from composer.terratorch.calls import Arguments, Diagnostics, construct, format_fix


@frozen(kw_only=True)
class Backbone:
    """An encoder with its image, the necks that pool its frames, and the padding that TerraTorch applies for it.

    `fallback` holds the necks of the graph where a call has none.
    """

    encoder: Encoder
    image: Image
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


ENCODER_FIELDS = ("pretrained", "out_indices", "output_stride", "img_size")
"""The arguments of timm that are fields of an encoder, and not options."""

WEIGHT_ARGUMENTS = ("pretrained_cfg_overlay", "checkpoint_path")
"""The arguments of timm that name a file of weights."""

FORBIDDEN_ARGUMENTS = {**FORBIDDEN_TIMM_OPTIONS, "padding": "its networks take none"}
"""Arguments that a network of timm cannot have, each with the reason."""


def build_named_backbone(
    full_name: str, arguments: Arguments, report: Diagnostics, describe: Describe
) -> Backbone | None:
    """Build the backbone of a name, `timm_resnet50` or `resnet50`, as TerraTorch resolves it.

    It is a network of timm with `features_only`, and without padding where it has no patches.
    """
    source, _, short = full_name.partition("_")
    name = short if source in ("timm", "terratorch") else full_name
    if source == "terratorch" or (name in FAMILIES and name not in UNREGISTERED):
        message = f"{name} is a backbone of TerraTorch's own, and composer knows timm's by name alone."
        instead = f'build it and hand in the module: backbone=BACKBONE_REGISTRY.build("{name}", …)'
        report.add_problem("backbone", message, instead, "part")
        return None
    frames, pooling, rest = parse_temporal_wrapper(arguments, report)
    if rest.get("features_only", True) is not True:
        message = "TerraTorch takes timm's networks with features_only alone."
        report.add_problem(arguments.locate("features_only"), message, "leave it out", "unused")
    encoder = _build_timm_encoder(name, rest.drop("features_only", "in_chans"), report)
    image = build_image(arguments.get("in_chans", 3), frames, arguments, report)
    if encoder is None or image is None:
        return None
    info = describe(encoder, image.channels)
    if isinstance(info, Rejection):
        # The network is not in timm, or rejects its arguments.
        origin, path = report.find_origin(f"encoder.{info.about or ''}") or (arguments, "backbone")
        got = f" (got {info.got})" if info.got else ""
        fix = info.fix and format_fix(info.fix, origin)
        report.add_problem(path, f"{get_part_name(encoder)} {info.expected}{got}.", fix, info.code)
        return None
    encoder, padding = _resolve_padding(encoder, info, image.channels, arguments, describe)
    return Backbone(encoder=encoder, image=image, pooling=pooling, padding=padding)


def _build_timm_encoder(network: str, arguments: Arguments, report: Diagnostics) -> Timm | None:
    fields = {name: value for name, value in arguments.values.items() if name in ENCODER_FIELDS}
    options = arguments.drop(*ENCODER_FIELDS)
    for name in options:
        if name in FORBIDDEN_ARGUMENTS:
            message = f"{name} cannot be handed to timm: {FORBIDDEN_ARGUMENTS[name]}."
            fix = f"{arguments.format_path('pretrained')}: PATH" if name in WEIGHT_ARGUMENTS else None
            report.add_problem(arguments.locate(name), message, fix, "unused")
    whole = {"name": network, "features_only": True, **fields, "options": options.drop(*FORBIDDEN_ARGUMENTS).values}
    return construct(Timm, evolve(arguments, values=whole), report, f"timm/{network}")


def build_image(channels: Any, frames: Any, arguments: Arguments, report: Diagnostics) -> Image | None:
    """Build the image of a backbone; None, with a problem, for an invalid number of channels or frames."""
    try:
        return Image(channels=channels, frames=frames)
    except ValueError as error:
        name = "temporal_n_timestamps" if str(error).startswith("frames") else "in_chans"
        report.add_problem(arguments.locate(name), f"{error}.")
        return None


_FIXED_SIZE_OPTIONS = {"dynamic_img_size": False, "strict_img_size": True}
"""timm's defaults of the options that composer sets for other image sizes."""


def _resolve_padding(
    encoder: Timm, info: EncoderInfo, channels: int, arguments: Arguments, describe: Describe
) -> tuple[Timm, Padding]:
    """Return the encoder and the padding with which it gets the images that TerraTorch feeds it.

    TerraTorch pads to twice the patch. Where the network's own size is not a multiple of that, nothing runs in
    TerraTorch, and there is no such padding here.
    """
    multiple = compute_padding_multiple(arguments.get("patch_size") or info.patch)
    fixed = {name: _FIXED_SIZE_OPTIONS[name] for name, _ in info.arguments if name in _FIXED_SIZE_OPTIONS}
    original = describe(evolve(encoder, options={**dict(encoder.options), **fixed}), channels) if fixed else info
    sizes = info.sizes if isinstance(original, Rejection) else original.sizes
    if any(side is not None and side % multiple for side in (sizes.height, sizes.width)):
        return encoder, Padding()
    unpadded = evolve(encoder, any_size=True)
    if multiple % info.sizes.multiple and not isinstance(describe(unpadded, channels), Rejection):
        encoder = unpadded
    return encoder, Padding(multiple=multiple)


def compute_padding_multiple(patch: int | tuple[int, ...] | list[int] | None) -> int:
    """Return the multiple in pixels that TerraTorch pads to for patches of this size; 1 where there are none."""
    if not patch:
        return 1
    return 2 * lcm(*([patch] if isinstance(patch, int) else patch[-2:]))


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
