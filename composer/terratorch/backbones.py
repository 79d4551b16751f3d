"""TerraTorch's backbones and necks as parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import lcm
from typing import Any

from attrs import evolve, field, frozen

from composer.errors import suggest
from composer.layouts import Features, Image, format_count
from composer.parts import (
    AddBottleneckLayer,
    AggregateTokens,
    Encoder,
    EncoderInfo,
    FeaturePyramidNetworkNeck,
    InterpolateToPyramidal,
    LearnedInterpolateToPyramidal,
    MaxpoolToPyramidal,
    Neck,
    PermuteDims,
    ProbedEncoder,
    ReshapeTokensToImage,
    SelectIndices,
    TemporalPooling,
    Timm,
    get_part_name,
)
from composer.parts.encoders import FORBIDDEN_TIMM_OPTIONS
from composer.parts.rules import Rejection
from composer.sizes import Padding
from composer.terratorch.calls import Arguments, Diagnostics, construct_part

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


Describe = Callable[[ProbedEncoder, int], EncoderInfo | Rejection]


_TERRATORCH_FAMILIES = "prithvi terramind clay dofa dinov3 satlas seco fmow ssl4eol ssl4eos12 heliofm"


TERRATORCH_PREFIXES = (*(f"{family}_" for family in _TERRATORCH_FAMILIES.split()), "IdentityBackbone", "UNet")
"""How the names of TerraTorch's own backbones begin."""


ENCODER_FIELDS = ("pretrained", "out_indices", "output_stride", "img_size")
"""The arguments of timm that are fields of an encoder, and not options."""


WEIGHT_ARGUMENTS = ("pretrained_cfg_overlay", "checkpoint_path")
"""The arguments of timm that name a file of weights."""


SHADOWED_NAMES = (
    "convnext_pico",
    *(f"convnextv2_{size}" for size in ("atto", "femto", "nano", "tiny", "base", "large", "huge")),
)
"""Names of timm that TerraTorch's own backbones hide, unless they are written `timm_…`; those cannot be built by it."""


TORCH_PADDING_MODES = {"reflect": "reflect", "replicate": "replicate", "constant": "zeros", "zeros": "zeros"}
"""torch's ways of padding, and what they are called here."""


@frozen(kw_only=True)
class Backbone:
    """An encoder, the image that it is fed, what pools its frames, and how TerraTorch pads for it."""

    encoder: Encoder
    image: Image
    pooling: tuple[Neck, ...] = ()
    padding: Padding = field(factory=Padding)
    fallback: tuple[Neck, ...] = ()
    """The necks that stand where a call gives none."""


def build_named_backbone(given: str, arguments: Arguments, ledger: Diagnostics, describe: Describe) -> Backbone | None:
    """The backbone of a name, which is looked for where TerraTorch looks: `timm_resnet50`, or `resnet50`.

    It is a network of timm as TerraTorch builds it: with `features_only`, and without padding where it has no patches.
    """
    source, _, short = given.partition("_")
    name = short if source in ("timm", "terratorch") else given
    if source == "terratorch" or _is_terratorch_backbone(name, describe):
        ledger.add_problem(
            "backbone",
            f"{name} is a backbone of TerraTorch's own, and composer knows timm's by name alone.",
            f'build it and hand in the module: backbone=BACKBONE_REGISTRY.build("{name}", …)',
            code="unknown",
        )
        return None
    frames, pooling, arguments = parse_temporal_wrapper(arguments, ledger)
    if arguments.get("features_only", True) is not True:
        message = "TerraTorch takes timm's networks with features_only alone."
        ledger.add_problem(arguments.path("features_only"), message, "leave it out", code="unused")
    channels = arguments.get("in_chans", 3)
    handed_on = arguments.without("features_only", "in_chans", "padding")
    if "padding" in arguments:
        message = "timm's networks take no padding, and TerraTorch hands it on to them."
        ledger.add_problem(arguments.path("padding"), message, "padding: {mode: …} in a spec", code="unused")
    encoder = _build_timm_encoder(name, handed_on, ledger)
    image = build_image(channels, frames, arguments, ledger)
    if encoder is None or image is None:
        return None
    facts = describe(encoder, image.channels)
    if isinstance(facts, Rejection):
        _report_rejection(encoder, facts, arguments, ledger)
        return None
    if given in SHADOWED_NAMES:
        ledger.add_note(
            "backbone", f"TerraTorch takes {name} for a backbone of its own, which its factory cannot build."
        )
    encoder, padding = _resolve_encoder_padding(encoder, facts, image.channels, arguments, describe)
    return Backbone(encoder=encoder, image=image, pooling=pooling, padding=padding)


def _is_terratorch_backbone(name: str, describe: Describe) -> bool:
    # Some are registered with timm where TerraTorch is imported.
    return name.startswith(TERRATORCH_PREFIXES) and isinstance(describe(Timm(name, features_only=True), 3), Rejection)


def _report_rejection(encoder: Timm, refusal: Rejection, arguments: Arguments, ledger: Diagnostics) -> None:
    """Say why there are no facts of a network: because it is none of timm's, or does not take its arguments."""
    name, bracket, position = (refusal.about or "").partition("[")
    path = arguments.paths.get(name, "backbone")
    path += bracket + position if path != "backbone" else ""
    got = f" (got {refusal.got})" if refusal.got else ""
    repair = refusal.repair
    if repair and refusal.about and path.startswith("backbone_"):
        repair = repair.replace(f"{refusal.about}: ", f"{path}: ")
    ledger.add_problem(path, f"{get_part_name(encoder)} {refusal.expected}{got}.", repair, refusal.code)


def _build_timm_encoder(network: str, arguments: Arguments, ledger: Diagnostics) -> Timm | None:
    barred = [name for name in arguments if name in FORBIDDEN_TIMM_OPTIONS and name not in ENCODER_FIELDS]
    for name in barred:
        repair = "backbone_pretrained: PATH" if name in WEIGHT_ARGUMENTS else None
        if repair and arguments.owner == "backbone_kwargs":
            repair = "backbone_kwargs: {pretrained: PATH}"
        ledger.add_problem(
            arguments.path(name), f"{name} cannot be handed to timm: {FORBIDDEN_TIMM_OPTIONS[name]}.", repair, "unused"
        )
    fields = {name: arguments.get(name) for name in ENCODER_FIELDS if name in arguments}
    options = {name: arguments.get(name) for name in arguments if name not in ENCODER_FIELDS and name not in barred}
    all_fields = Arguments(
        arguments.owner, {**fields, "name": network, "features_only": True, "options": options}, arguments.paths
    )
    return construct_part(Timm, all_fields, ledger, f"timm/{network}")


def build_image(channels: Any, frames: int | None, arguments: Arguments, ledger: Diagnostics) -> Image | None:
    """The image that a backbone is fed; None, and a problem, where there is none of so many channels."""
    try:
        return Image(channels=channels, frames=frames)
    except ValueError as error:
        ledger.add_problem(arguments.path("in_chans"), f"{error}.")
        return None


def _resolve_encoder_padding(
    encoder: Timm, facts: EncoderInfo, channels: int, arguments: Arguments, describe: Describe
) -> tuple[Timm, Padding]:
    """TerraTorch pads to twice the patch, which the size that a network takes need not be a multiple of.

    Where it is none, nothing runs there; else, and where there are no patches, this is what TerraTorch feeds it.
    """
    patch = arguments.get("patch_size") or facts.patch
    multiple = compute_padding_multiple(patch)
    fixed = [side for side in (facts.sizes.height, facts.sizes.width) if side is not None]
    if fixed:
        return encoder, Padding(multiple=multiple if all(side % multiple == 0 for side in fixed) else 1)
    if any(side % multiple for side in _find_native_size(encoder, facts, channels, describe)):
        return encoder, Padding()
    if multiple % facts.sizes.multiple == 0:
        return encoder, Padding(multiple=multiple)
    unpadded = evolve(encoder, any_size=True)
    as_it_is = isinstance(describe(unpadded, channels), Rejection)
    return encoder if as_it_is else unpadded, Padding(multiple=multiple)


_FIXED_SIZE_OPTIONS = {"dynamic_img_size": False, "strict_img_size": True}
"""How timm makes networks that are not told to take other image sizes than their own."""


def _find_native_size(encoder: Timm, facts: EncoderInfo, channels: int, describe: Describe) -> tuple[int, ...]:
    """The one size that a network takes in TerraTorch, where composer has turned a switch of it for other sizes."""
    turned = {name: _FIXED_SIZE_OPTIONS[name] for name, _ in facts.arguments if name in _FIXED_SIZE_OPTIONS}
    if not turned:
        return ()
    as_there = describe(evolve(encoder, options={**dict(encoder.options), **turned}), channels)
    if isinstance(as_there, Rejection) or as_there.sizes.height is None or as_there.sizes.width is None:
        return ()
    return as_there.sizes.height, as_there.sizes.width


def compute_padding_multiple(patch: int | tuple[int, ...] | list[int] | None) -> int:
    """The multiple that TerraTorch pads to for patches of this size; 1 where there are none."""
    if not patch:
        return 1
    sides = (patch,) if isinstance(patch, int) else tuple(patch)[-2:]
    return 2 * lcm(*sides)


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
