"""TerraTorch's backbones and necks as parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import lcm
from typing import Any

from attrs import evolve, field, frozen

from composer.errors import suggest
from composer.layouts import Features, Image, format_count
from composer.parts import NECKS as BUILT_IN_NECKS
from composer.parts import Encoder, EncoderInfo, Neck, ProbedEncoder, TemporalPooling, Timm
from composer.parts.base import get_part_name
from composer.parts.encoders import FORBIDDEN_TIMM_OPTIONS
from composer.parts.rules import Rejection
from composer.sizes import Padding
from composer.terratorch.calls import Arguments, Diagnostics, construct_part

TEMPORAL_ARGUMENTS = (
    *("use_temporal", "temporal_pooling", "temporal_concat", "temporal_n_timestamps"),
    *("temporal_features_permute_op", "temporal_subset_lengths"),
)
"""The arguments of a backbone that configure TerraTorch's temporal wrapper."""


def parse_temporal_wrapper(arguments: Arguments, report: Diagnostics) -> tuple[int | None, tuple[Neck, ...], Arguments]:
    """Return the frames of the image, the neck that pools them, and the other arguments.

    TerraTorch wraps the backbone; here a single-image encoder is applied to each frame, and a neck merges the results.
    """
    rest = arguments.drop(*TEMPORAL_ARGUMENTS)
    if not arguments.get("use_temporal", False):
        for name in TEMPORAL_ARGUMENTS[1:]:
            if name in arguments:
                report.add_note(arguments.locate(name), f"TerraTorch ignores {name} without use_temporal.")
        return None, (), rest
    if arguments.get("temporal_concat") is not None:
        path = arguments.locate("temporal_concat")
        report.add_note(path, "TerraTorch ignores temporal_concat.", "temporal_pooling: concat")
    names = {"pooling": "temporal_pooling", "subset_lengths": "temporal_subset_lengths"}
    values = {short: arguments.values[name] for short, name in names.items() if name in arguments}
    paths = {short: arguments.locate(name) for short, name in names.items()}
    neck = construct_part(TemporalPooling, Arguments(arguments.owner, values, paths), report)
    if arguments.get("temporal_features_permute_op") is not None and neck is not None and neck.pooling != "concat":
        path = arguments.locate("temporal_features_permute_op")
        message = "TerraTorch undoes temporal_features_permute_op once frames are pooled, which goes by cells"
        report.add_note(path, f"{message}: it has no effect.")
    frames = _resolve_frame_count(arguments, neck, report)
    return frames, () if neck is None or neck == TemporalPooling(pooling="keep") else (neck,), rest


def check_permutation(arguments: Arguments, features: Features, report: Diagnostics) -> None:
    """Reject a `temporal_features_permute_op` with which frames are concatenated along another axis than the channels.

    TerraTorch concatenates along the axis that the permutation brings to the second place, in any layout.
    """
    order = arguments.get("temporal_features_permute_op")
    if order is None or not arguments.get("use_temporal", False) or arguments.get("temporal_pooling") != "concat":
        return
    places = sorted({feature.axes.split().index("c") for feature in features if "n" not in feature.axes.split()})
    second = order[1] if isinstance(order, list | tuple) and len(order) > 1 else order
    if places in ([], [second]):
        return
    name = "temporal_features_permute_op"
    report.add_problem(
        arguments.locate(name),
        f"the frames would lie side by side along axis {second!r} of each map, and its channels are axis {places[0]}.",
        f"{_format_argument(name, arguments)}: {'[0, 3, 1, 2]' if places == [3] else 'null'}",
    )


def _format_argument(name: str, arguments: Arguments) -> str:
    """Return an argument with its prefix, or without inside `backbone_kwargs`."""
    return f"backbone_{name}" if arguments.owner == "backbone" else name


def _resolve_frame_count(arguments: Arguments, neck: TemporalPooling | None, report: Diagnostics) -> int | None:
    """Return the number of frames: as stated, or as the pooling implies."""
    stated: Any = arguments.get("temporal_n_timestamps")
    if stated is not None and (type(stated) is not int or stated < 1):
        path = arguments.locate("temporal_n_timestamps")
        report.add_problem(path, f"temporal_n_timestamps is a whole number of at least 1 (got {stated!r}).")
        return None
    if neck is None:
        return None
    implied = None if neck.subset_lengths is None else sum(neck.subset_lengths)
    if stated is not None and implied not in (None, stated):
        report.add_problem(
            arguments.locate("temporal_subset_lengths"),
            f"temporal_subset_lengths come to {format_count(implied, 'frame')}, and temporal_n_timestamps is {stated}.",
            f"temporal_n_timestamps: {implied}",
        )
    count: int | None = stated or implied or (2 if neck.pooling == "diff" else None)
    if count is None:
        fix = f"say how many: {_format_argument('temporal_n_timestamps', arguments)}"
        path = arguments.locate("use_temporal")
        report.add_problem(path, "the number of frames has to be known.", fix, "key")
    return count


Describe = Callable[[ProbedEncoder, int], EncoderInfo | Rejection]

_TERRATORCH_FAMILIES = "prithvi terramind clay dofa dinov3 satlas seco fmow ssl4eol ssl4eos12 heliofm"

TERRATORCH_PREFIXES = (*(f"{family}_" for family in _TERRATORCH_FAMILIES.split()), "IdentityBackbone", "UNet")
"""Prefixes of the names of TerraTorch's own backbones."""

ENCODER_FIELDS = ("pretrained", "out_indices", "output_stride", "img_size")
"""The arguments of timm that are fields of an encoder, and not options."""

WEIGHT_ARGUMENTS = ("pretrained_cfg_overlay", "checkpoint_path")
"""The arguments of timm that name a file of weights."""

SHADOWED_NAMES = (
    "convnext_pico",
    *(f"convnextv2_{size}" for size in ("atto", "femto", "nano", "tiny", "base", "large", "huge")),
)
"""Names of timm that TerraTorch's own backbones hide, unless they are written `timm_…`; it cannot build those."""

TORCH_PADDING_MODES = {"reflect": "reflect", "replicate": "replicate", "constant": "zeros", "zeros": "zeros"}
"""torch's padding modes, and their names here."""


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


def build_named_backbone(
    full_name: str, arguments: Arguments, report: Diagnostics, describe: Describe
) -> Backbone | None:
    """Build the backbone of a name, `timm_resnet50` or `resnet50`, as TerraTorch resolves it.

    It is a network of timm with `features_only`, and without padding where it has no patches.
    """
    source, _, short = full_name.partition("_")
    name = short if source in ("timm", "terratorch") else full_name
    if source == "terratorch" or _is_terratorch_backbone(name, describe):
        report.add_problem(
            "backbone",
            f"{name} is a backbone of TerraTorch's own, and composer knows timm's by name alone.",
            f'build it and hand in the module: backbone=BACKBONE_REGISTRY.build("{name}", …)',
            "part",
        )
        return None
    frames, pooling, arguments = parse_temporal_wrapper(arguments, report)
    if arguments.get("features_only", True) is not True:
        message = "TerraTorch takes timm's networks with features_only alone."
        report.add_problem(arguments.locate("features_only"), message, "leave it out", "unused")
    if "padding" in arguments:
        message = "timm's networks take no padding, and TerraTorch hands it on to them."
        report.add_problem(arguments.locate("padding"), message, "padding: {mode: …} in a spec", "unused")
    encoder = _build_timm_encoder(name, arguments.drop("features_only", "in_chans", "padding"), report)
    image = build_image(arguments.get("in_chans", 3), frames, arguments, report)
    if encoder is None or image is None:
        return None
    facts = describe(encoder, image.channels)
    if isinstance(facts, Rejection):
        _report_rejection(encoder, facts, arguments, report)
        return None
    if full_name in SHADOWED_NAMES:
        message = f"TerraTorch takes {name} for a backbone of its own, which its factory cannot build."
        report.add_note("backbone", message)
    encoder, padding = _resolve_encoder_padding(encoder, facts, image.channels, arguments, describe)
    return Backbone(encoder=encoder, image=image, pooling=pooling, padding=padding)


def _is_terratorch_backbone(name: str, describe: Describe) -> bool:
    # Some are registered with timm where TerraTorch is imported.
    return name.startswith(TERRATORCH_PREFIXES) and isinstance(describe(Timm(name, features_only=True), 3), Rejection)


def _report_rejection(encoder: Timm, rejection: Rejection, arguments: Arguments, report: Diagnostics) -> None:
    """Report a network that is not in timm, or rejects its arguments."""
    name, bracket, position = (rejection.about or "").partition("[")
    path = arguments.paths.get(name, "backbone")
    path += bracket + position if path != "backbone" else ""
    got = f" (got {rejection.got})" if rejection.got else ""
    fix = rejection.fix
    if fix and rejection.about and path.startswith("backbone_"):
        fix = fix.replace(f"{rejection.about}: ", f"{path}: ")
    report.add_problem(path, f"{get_part_name(encoder)} {rejection.expected}{got}.", fix, rejection.code)


def _build_timm_encoder(network: str, arguments: Arguments, report: Diagnostics) -> Timm | None:
    fields: dict[str, Any] = {"name": network, "features_only": True}
    options: dict[str, Any] = {}
    for name, value in arguments.values.items():
        if name in ENCODER_FIELDS:
            fields[name] = value
        elif name not in FORBIDDEN_TIMM_OPTIONS:
            options[name] = value
        else:
            message = f"{name} cannot be handed to timm: {FORBIDDEN_TIMM_OPTIONS[name]}."
            in_dict = arguments.owner == "backbone_kwargs"
            fix = "backbone_kwargs: {pretrained: PATH}" if in_dict else "backbone_pretrained: PATH"
            path = arguments.locate(name)
            report.add_problem(path, message, fix if name in WEIGHT_ARGUMENTS else None, "unused")
    return construct_part(Timm, evolve(arguments, values={**fields, "options": options}), report, f"timm/{network}")


def build_image(channels: Any, frames: int | None, arguments: Arguments, report: Diagnostics) -> Image | None:
    """Build the image of a backbone; None, with a problem, for an invalid number of channels."""
    try:
        return Image(channels=channels, frames=frames)
    except ValueError as error:
        report.add_problem(arguments.locate("in_chans"), f"{error}.")
        return None


def _resolve_encoder_padding(
    encoder: Timm, facts: EncoderInfo, channels: int, arguments: Arguments, describe: Describe
) -> tuple[Timm, Padding]:
    """Return the encoder and the padding with which it gets the images that TerraTorch feeds it.

    TerraTorch pads to twice the patch. Where the network's own size is not a multiple of that, nothing runs in
    TerraTorch, and there is no such padding here.
    """
    multiple = compute_padding_multiple(arguments.get("patch_size") or facts.patch)
    fixed = [side for side in (facts.sizes.height, facts.sizes.width) if side is not None]
    if fixed:
        return encoder, Padding(multiple=multiple if all(side % multiple == 0 for side in fixed) else 1)
    if any(side % multiple for side in _find_native_size(encoder, facts, channels, describe)):
        return encoder, Padding()
    unpadded = evolve(encoder, any_size=True)
    if multiple % facts.sizes.multiple and not isinstance(describe(unpadded, channels), Rejection):
        encoder = unpadded
    return encoder, Padding(multiple=multiple)


_FIXED_SIZE_OPTIONS = {"dynamic_img_size": False, "strict_img_size": True}
"""timm's defaults of the options that composer sets for other image sizes."""


def _find_native_size(encoder: Timm, facts: EncoderInfo, channels: int, describe: Describe) -> tuple[int, ...]:
    """Return the one size that a network takes in TerraTorch, where composer has set an option for other sizes."""
    changed = {name: _FIXED_SIZE_OPTIONS[name] for name, _ in facts.arguments if name in _FIXED_SIZE_OPTIONS}
    if not changed:
        return ()
    original = describe(evolve(encoder, options={**dict(encoder.options), **changed}), channels)
    if isinstance(original, Rejection) or original.sizes.height is None or original.sizes.width is None:
        return ()
    return original.sizes.height, original.sizes.width


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


def build_necks(necks: Sequence[Mapping[str, Any]] | None, report: Diagnostics) -> list[Neck]:
    """Build the necks of a call, `[{"name": "SelectIndices", "indices": [2, 5, 8, 11]}, …]`."""
    if necks is None:
        return []
    if not isinstance(necks, list | tuple):
        report.add_problem("necks", f"necks is a list of dicts, each with a name (got {necks!r}).", code="type")
        return []
    parts = [_build_neck(entry, f"necks[{position}]", report) for position, entry in enumerate(necks)]
    return [neck for neck in parts if neck is not None]


def _build_neck(entry: Any, path: str, report: Diagnostics) -> Neck | None:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        message = f"a neck is a dict with a name (got {entry!r})."
        report.add_problem(path, message, "{name: SelectIndices, …}", "type")
        return None
    name = entry["name"].removeprefix("terratorch_")
    if name not in NECKS:
        report.add_problem(f"{path}.name", f"TerraTorch has no neck {name!r}.", suggest(name, NECKS), "part")
        return None
    arguments = Arguments.from_mapping(path, {key: value for key, value in entry.items() if key != "name"})
    if name in _NECK_PREPARERS:
        arguments = _NECK_PREPARERS[name](arguments, report)
    return construct_part(NECKS[name], arguments, report)


def _prepare_aggregate(arguments: Arguments, report: Diagnostics) -> Arguments:
    # TerraTorch reads `indices` as true or false, so that 0 and [] leave it to the deprecated `index`.
    indices, index = arguments.get("indices"), arguments.get("index", -1)
    if indices is not None and not indices:
        report.add_note(
            arguments.locate("indices"),
            f"TerraTorch takes indices: {indices!r} for none, and aggregates level {index}.",
            "AggregateTokens: {indices: [0]} is the first level",
        )
    pooling = arguments.get("pooling", "mean")
    return arguments.drop("index", "temporal_inputs").replace(
        indices=indices or index, pooling=pooling.lower() if isinstance(pooling, str) else pooling
    )


def _prepare_reshape(arguments: Arguments, _: Diagnostics) -> Arguments:
    # Whether features are per frame is known from the features.
    return arguments.drop("temporal_inputs")


def _prepare_permute(arguments: Arguments, _: Diagnostics) -> Arguments:
    """Count negative axes from the front; torch counts them from the end."""
    order = arguments.get("new_order")
    if not isinstance(order, list | tuple) or not all(type(axis) is int for axis in order):
        return arguments
    return arguments.replace(new_order=[axis + len(order) if -len(order) <= axis < 0 else axis for axis in order])


def _prepare_pyramid(arguments: Arguments, report: Diagnostics) -> Arguments:
    if arguments.get("output_ordered_dict", True):
        message = "TerraTorch gives an ordered dict here, which no decoder of its factory takes; "
        report.add_note(arguments.locate("output_ordered_dict"), f"{message}composer gives a tuple.")
    return arguments.drop("output_ordered_dict")


_NECK_PREPARERS = {
    "AggregateTokens": _prepare_aggregate,
    "PermuteDims": _prepare_permute,
    "ReshapeTokensToImage": _prepare_reshape,
    "FeaturePyramidNetworkNeck": _prepare_pyramid,
}
