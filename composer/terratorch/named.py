"""Backbones by name: TerraTorch's own, and networks of timm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from attrs import evolve

from composer.adapters.terratorch.parts import (
    CONSTRUCTORS,
    FAMILIES,
    FORBIDDEN_TERRATORCH_OPTIONS,
    MODALITIES,
    TOKENIZER_CHANNELS,
    UNSUPPORTED_BACKBONES,
    TerraTorch,
    get_patch_side,
)
from composer.adapters.timm.catalogue import list_networks
from composer.errors import find_close_matches
from composer.inference import Describe
from composer.layouts import MAX_BANDS
from composer.parts import EncoderInfo, Neck, PermuteDims, ReshapeTokensToImage, SelectIndices, Timm
from composer.parts.base import get_part_name
from composer.parts.encoders import FORBIDDEN_TIMM_OPTIONS
from composer.parts.rules import Rejection
from composer.sizes import Padding
from composer.terratorch.backbones import Backbone, build_image, parse_padding, parse_temporal_wrapper
from composer.terratorch.calls import Arguments, Diagnostics, construct, format_fix

LEGACY_NAMES = {
    "prithvi_vit_tiny": "prithvi_eo_tiny",
    "prithvi_vit_100": "prithvi_eo_v1_100",
    "prithvi_vit_300": "prithvi_eo_v2_300",
    "prithvi_swin_90_us": "prithvi_swin_B",
}
"""Backbones by the names of TerraTorch before 1.0, each with the present one."""

HOOKS: Mapping[str, tuple[Neck, ...]] = {
    "prithvi": (ReshapeTokensToImage(),),
    "scalemae": (ReshapeTokensToImage(),),
    "clay": (SelectIndices(indices=[-1]), ReshapeTokensToImage()),
    "swin": (PermuteDims(new_order=[0, 3, 1, 2]),),
}
"""The necks that do what a backbone's own hook does, by the kind of backbone; the others have none."""

TIMM_FIELDS = ("pretrained", "out_indices", "output_stride", "img_size", "features_only")
TERRATORCH_FIELDS = ("pretrained", "out_indices", "bands", "modalities")
"""The arguments that are fields of an encoder, and not options."""

FORBIDDEN_TIMM_ARGUMENTS = {**FORBIDDEN_TIMM_OPTIONS, "padding": "its networks take none"}
"""Arguments that a network of timm cannot have, each with the reason."""

IMAGE_ARGUMENTS = ("num_frames", "in_chans", "in_channels")
WEIGHT_FILES = ("ckpt_path", "ckpt_data", "pretrained_cfg_overlay")
"""The arguments that name a file of weights."""


def build_named_backbone(
    full_name: str, arguments: Arguments, report: Diagnostics, describe: Describe
) -> Backbone | None:
    """Build the backbone of a name as TerraTorch resolves it: its own first, then timm's; None, with a problem.

    A name may begin with `terratorch_` or `timm_`.
    """
    source, _, short = full_name.partition("_")
    name = short if source in ("timm", "terratorch") else full_name
    if name in LEGACY_NAMES:
        present = LEGACY_NAMES[name]
        report.add_note("backbone", f"TerraTorch 1.2.11 has no {name!r}, only its successor.", f"backbone: {present}")
        name = present
    if name in FAMILIES:
        return _build_terratorch_backbone(name, arguments, report)
    known = name.partition(".")[0] in list_networks()
    if source == "terratorch" or not (known or (name and isinstance(describe(Timm(name), 3), EncoderInfo))):
        _reject_unknown_backbone(full_name, name, report)
        return None
    return _build_timm_backbone(name, arguments, report, describe)


def _reject_unknown_backbone(full_name: str, name: str, report: Diagnostics) -> None:
    near = find_close_matches(name, [*FAMILIES, *(n for n in list_networks() if n[:3] == name[:3])], cutoff=0.75)
    fix = f"did you mean {' or '.join(near)}?" if near else "python -m composer list encoders 'terratorch/*' lists them"
    message = f"TerraTorch 1.2.11 has no backbone {full_name!r}."
    if name in UNSUPPORTED_BACKBONES:
        reason, instead = UNSUPPORTED_BACKBONES[name]
        message, fix = f"{name} cannot be had: {reason}.", f"backbone: {instead.replace('/', '_')}"
    report.add_problem("backbone", message, fix, "part")


def _build_terratorch_backbone(name: str, arguments: Arguments, report: Diagnostics) -> Backbone | None:
    """Build a backbone of TerraTorch's own. Nothing is asked of TerraTorch: it need not be installed."""
    kind = FAMILIES[name].kind
    frames, pooling, rest = parse_temporal_wrapper(arguments, report)
    padding = parse_padding(get_patch_side(name), rest, report)
    side = rest.get("img_size", 224)
    if kind == "dofa" and type(side) is int and side % padding.multiple:
        # Its positions are of one size, so that nothing runs in TerraTorch.
        padding = Padding()
    rest = _drop_ignored(name, rest.drop("padding"), report)
    rest = _parse_weights(rest, report, WEIGHT_FILES, always=CONSTRUCTORS[kind].reads_file)
    if kind == "prithvi":
        if frames is not None:
            message = "a Prithvi takes all frames at once here; TerraTorch would feed it one by one."
            fix = f"{arguments.format_path('num_frames')}: {frames} in place of use_temporal"
            report.add_problem(arguments.locate("use_temporal"), message, fix, "frames")
        frames = frames or (None if rest.get("num_frames") == 1 else rest.get("num_frames"))
        rest = rest.drop("num_frames")
    parse = _parse_modalities if "modalities" in FAMILIES[name].fields else _parse_channels
    rest, counts = parse(name, _parse_levels(name, rest, report), report)
    report.origins["encoder"] = rest
    encoder = _construct_encoder(TerraTorch, name, rest, report)
    images = {key: (word, build_image(count, frames, arguments, report)) for key, (word, count) in counts.items()}
    if encoder is None or not images:
        return None
    fallback = () if rest.get("vit_adapter") else HOOKS.get(kind, ())
    return Backbone(encoder=encoder, images=images, pooling=pooling, padding=padding, fallback=fallback)


def _drop_ignored(name: str, arguments: Arguments, report: Diagnostics) -> Arguments:
    """Drop the arguments that a constructor ignores in silence, with a note on each."""
    constructor = CONSTRUCTORS[FAMILIES[name].kind]
    # With an adapter, a Prithvi reads more.
    known = () if arguments.get("vit_adapter") else constructor.options
    read = (*known, "pretrained", "out_indices", "bands", *IMAGE_ARGUMENTS, *WEIGHT_FILES)
    unread = [word for word in arguments if word in constructor.ignored or (known and word not in read)]
    for word in unread:
        near = find_close_matches(word, known)
        fix = f"did you mean {arguments.format_path(near[0])}?" if near else None
        if (word, arguments.get(word)) != ("num_frames", 1):
            report.add_ignored(arguments, [word], f"{name} does not read it", fix)
    return arguments.drop(*unread)


def _parse_weights(
    arguments: Arguments, report: Diagnostics, names: Sequence[str], *, always: bool = False
) -> Arguments:
    """Return the arguments with the path of a file of weights as `pretrained`, where one is read.

    `names` are those of the argument for the file, which is read `always`, or where `pretrained` is true.
    """
    for name in names:
        file = arguments.get(name)
        if name == "pretrained_cfg_overlay" and isinstance(file, Mapping) and file.keys() == {"file"}:
            file = file["file"]
        if file is None:
            arguments = arguments.drop(name)
        elif isinstance(file, str) and (always or arguments.get("pretrained")):
            arguments = arguments.drop("pretrained").replace(**{name: file}).rename(**{name: "pretrained"})
        elif isinstance(file, str):
            fix = f"{arguments.format_path('pretrained')}: true"
            report.add_ignored(arguments, [name], "pretrained is not true", fix)
            arguments = arguments.drop(name)
    return arguments if arguments.get("pretrained") is not None else arguments.drop("pretrained")


def _parse_levels(name: str, arguments: Arguments, report: Diagnostics) -> Arguments:
    """Return the arguments with the levels that TerraTorch gives for `out_indices`, in its order."""
    indices, kind = arguments.get("out_indices"), FAMILIES[name].kind
    path = arguments.locate("out_indices")
    if kind == "prithvi" and indices is not None:
        message = "TerraTorch counts all levels for the decoder, and fails where it reads more than these."
        report.add_note(path, message, f"necks: [{{name: SelectIndices, indices: {indices}}}, …]")
    if kind not in ("dofa", "torchgeo") or not isinstance(indices, list | tuple):
        return arguments
    count = (24 if "large" in name else 12) if kind == "dofa" else 8 if "swin" in name else 5
    unread = [index for index in indices if index not in range(-1, count)]
    if unread:
        listed = ", ".join(map(str, unread))
        report.add_note(path, f"TerraTorch ignores {listed}: {name} has the levels 0 to {count - 1}.")
    return arguments.replace(out_indices=sorted({index % count for index in indices if index not in unread}) or [-1])


Counts = dict[str, tuple[str, Any]]
"""The images of an encoder, by modality: the name of the input, and its number of channels."""


def _parse_channels(name: str, arguments: Arguments, report: Diagnostics) -> tuple[Arguments, Counts]:
    """Return the arguments with `bands` as the part has them, and the channels of the image."""
    kind, word = FAMILIES[name].kind, CONSTRUCTORS[FAMILIES[name].kind].bands_argument
    count = arguments.get("in_chans", arguments.get("in_channels"))
    rest = arguments.drop("in_chans", "in_channels").rename(model_bands="bands")
    if word is not None:
        bands = _flatten_bands(rest.get("bands") or CONSTRUCTORS[kind].bands)
        if bands is None:
            fix = f"{rest.format_path(word)}: [BLUE, GREEN, RED]"
            report.add_problem(rest.locate("bands"), f"{name} needs {word}, the names of its channels.", fix, "key")
            return rest.drop("bands"), {}
        if count is None or not kind.startswith("torchgeo"):
            if count not in (None, len(bands)):
                report.add_ignored(arguments, ("in_chans", "in_channels"), f"there are {len(bands)} bands")
            count = len(bands)
        rest = _name_bands(kind, rest, bands, report)
    elif name == "IdentityBackbone":
        widths, rest = rest.get("out_channels"), rest.drop("out_channels")
        count = widths[0] if isinstance(widths, list | tuple) and widths else count or 3
    elif count is None:
        count = TOKENIZER_CHANNELS.get(name.rpartition("_")[2], 3)
    return rest, {"": ("image", count)}


def _flatten_bands(bands: Any) -> list[str] | None:
    """Return the names of bands: strings, numbers, tuples of the ends of an interval, enumerations; None for others."""
    if not isinstance(bands, list | tuple):
        return None
    names: list[str] = []
    for band in bands:
        interval = isinstance(band, tuple) and len(band) == 2 and all(type(end) is int for end in band)
        # An interval that is too long is still too long for an image.
        entries = range(band[0], min(band[1], band[0] + MAX_BANDS) + 1) if interval else [getattr(band, "value", band)]
        if not all(isinstance(entry, int | str) for entry in entries):
            return None
        names += [str(entry).removeprefix("HLSBands.").removeprefix("OpticalBands.") for entry in entries]
    return names


def _name_bands(kind: str, arguments: Arguments, bands: list[str], report: Diagnostics) -> Arguments:
    """Return the arguments with the names of bands; without, where they are numbers, which no weights have."""
    numbered = kind != "dofa" and all(band.isdigit() for band in bands)
    known, fix = CONSTRUCTORS[kind].bands or bands, f"name them: {arguments.format_path('bands')}: [BLUE, …]"
    if numbered and kind != "clay" and arguments.get("pretrained") and len(bands) != len(known):
        message = f"the weights are of {', '.join(known)}, and {len(bands)} numbers do not tell which of them to take."
        report.add_problem(arguments.locate("bands"), message, fix)
    elif numbered and (kind == "clay" or arguments.get("pretrained")):
        message = "TerraTorch starts the kernels of numbers at random; here they are those of the weights, in order."
        if kind == "clay":
            message = "Clay has a wavelength of no number, and makes the same kernel for each of these bands."
        report.add_note(arguments.locate("bands"), message, fix)
    return arguments.drop("bands") if numbered and kind != "clay" else arguments.replace(bands=bands)


_SPELLINGS = {"sen2l2a": "S2L2A", "sen2l1c": "S2L1C", "sen1rtc": "S1RTC", "sen1": "S1GRD", "rgb": "RGB", "dem": "DEM"}


def _parse_modalities(name: str, arguments: Arguments, report: Diagnostics) -> tuple[Arguments, Counts]:
    """Return the arguments with `modalities` and `bands` by TerraMind's names, and the images of the modalities.

    Without modalities TerraTorch makes one of its own, `image`.
    """
    given = arguments.get("modalities") or [{"image": arguments.get("in_chans", 3)}]
    if arguments.get("modalities"):
        report.add_ignored(arguments, ["in_chans"], "the modalities tell the channels")
    counts: Counts = {}
    for entry in given if isinstance(given, list | tuple) else [given]:
        for key, count in entry.items() if isinstance(entry, Mapping) else [(entry, None)]:
            modality = _spell_modality(key) if count is None else str(key)
            counts[modality] = (str(key) if str(key).isidentifier() else modality, count)
            if count is not None and modality in MODALITIES:
                message = f"TerraTorch takes {key}: {count} for a new modality, and not for the one with weights."
                fix = f"{key} without a number in a list of modalities, or {{own_{key}: {count}}}"
                report.add_problem(arguments.locate("modalities"), message, fix)
            if count is None and modality not in MODALITIES:
                message = f"{name} takes images of {', '.join(MODALITIES)} (got {key!r})."
                fix = f"{{{key}: CHANNELS}} is a modality of your own, without weights"
                report.add_problem(arguments.locate("modalities"), message, fix)
    rest, named = arguments.drop("in_chans").replace(modalities=list(counts)), arguments.get("bands")
    if isinstance(named, list | tuple) and len(counts) == 1:
        named = dict.fromkeys(counts, named)
    bands = {}
    if isinstance(named, Mapping):
        bands = {_spell_modality(key): _flatten_bands(names) or names for key, names in named.items()}
        rest = rest.replace(bands=bands)
    for modality, (word, count) in counts.items():
        names = bands.get(modality)
        known = len(names) if isinstance(names, list) else MODALITIES.get(modality, 3)
        counts[modality] = (word, known if count is None else count)
    return rest, counts


def _spell_modality(name: Any) -> str:
    """Return TerraMind's name of a modality, by the rules with which TerraTorch reads other spellings."""
    plain = str(name).lower().replace("s2", "sen2").replace("s1", "sen1")
    return next((modality for spelling, modality in _SPELLINGS.items() if spelling in plain), str(name))


def _build_timm_backbone(name: str, arguments: Arguments, report: Diagnostics, describe: Describe) -> Backbone | None:
    """Build a network of timm with `features_only`, and without padding where it has no patches."""
    frames, pooling, rest = parse_temporal_wrapper(arguments, report)
    if rest.get("features_only", True) is not True:
        message = "TerraTorch takes timm's networks with features_only alone."
        report.add_problem(arguments.locate("features_only"), message, "leave it out", "unused")
    rest = _parse_weights(rest, report, ("pretrained_cfg_overlay",))
    encoder = _construct_encoder(Timm, name, rest.drop("in_chans").replace(features_only=True), report)
    image = build_image(arguments.get("in_chans", 3), frames, arguments, report)
    if encoder is None:
        return None
    info = describe(encoder, image.channels)
    if isinstance(info, Rejection):
        # The network rejects its arguments.
        origin, path = report.find_origin(f"encoder.{info.about or ''}") or (arguments, "backbone")
        path = next((arguments.locate(word) for word in arguments if f"argument '{word}'" in str(info.got)), path)
        got = f" (got {info.got})" if info.got else ""
        fix = info.fix and format_fix(info.fix, origin)
        report.add_problem(path, f"{get_part_name(encoder)} {info.expected}{got}.", fix, info.code)
        return None
    padding = parse_padding(info.patch, arguments.drop("padding"), report)
    encoder, padding = _resolve_padding(encoder, info, image.channels, padding, describe)
    return Backbone(encoder=encoder, images={"": ("image", image)}, pooling=pooling, padding=padding)


E = TypeVar("E", Timm, TerraTorch)


def _construct_encoder(cls: type[E], name: str, arguments: Arguments, report: Diagnostics) -> E | None:
    """Build an encoder: the arguments that are not fields of its own are its options."""
    fields = TERRATORCH_FIELDS if cls is TerraTorch else TIMM_FIELDS
    forbidden = FORBIDDEN_TERRATORCH_OPTIONS if cls is TerraTorch else FORBIDDEN_TIMM_ARGUMENTS
    own = {argument: value for argument, value in arguments.values.items() if argument in fields}
    options = arguments.drop(*fields)
    label = f"{cls.source}/{name}"
    for argument in options:
        if argument in forbidden:
            message = f"{argument} cannot be handed to {label}: {forbidden[argument]}."
            fix = f"{arguments.format_path('pretrained')}: PATH" if "weights" in forbidden[argument] else None
            report.add_problem(arguments.locate(argument), message, fix, "unused")
    values = {"name": name, **own, "options": options.drop(*forbidden).values}
    return construct(cls, evolve(arguments, values=values), report, label)


_FIXED_SIZE_OPTIONS = {"dynamic_img_size": False, "strict_img_size": True}
"""timm's defaults of the options that composer sets for other image sizes."""


def _resolve_padding(
    encoder: Timm, info: EncoderInfo, channels: int, padding: Padding, describe: Describe
) -> tuple[Timm, Padding]:
    """Return the encoder and the padding with which it gets the images that TerraTorch feeds it.

    TerraTorch pads to twice the patch. Where the network's own size is not a multiple of that, nothing runs in
    TerraTorch, and there is no such padding here.
    """
    fixed = {name: _FIXED_SIZE_OPTIONS[name] for name, _ in info.arguments if name in _FIXED_SIZE_OPTIONS}
    original = describe(evolve(encoder, options={**dict(encoder.options), **fixed}), channels) if fixed else info
    sizes = info.sizes if isinstance(original, Rejection) else original.sizes
    if any(side is not None and side % padding.multiple for side in (sizes.height, sizes.width)):
        return encoder, Padding()
    unpadded = evolve(encoder, any_size=True)
    if padding.multiple % info.sizes.multiple and not isinstance(describe(unpadded, channels), Rejection):
        encoder = unpadded
    return encoder, padding
