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
from composer.parts import EncoderInfo, Neck, PermuteDims, ReshapeTokensToImage, SelectIndices, Timm
from composer.parts.base import get_part_name
from composer.parts.encoders import FORBIDDEN_TIMM_OPTIONS
from composer.parts.rules import Rejection
from composer.sizes import Padding
from composer.terratorch.backbones import (
    Backbone,
    build_image,
    compute_padding_multiple,
    parse_padding,
    parse_temporal_wrapper,
)
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

TERRATORCH_FIELDS = ("pretrained", "out_indices", "bands", "modalities")
TIMM_FIELDS = ("pretrained", "out_indices", "output_stride", "img_size", "features_only")
IMAGE_ARGUMENTS = ("num_frames", "in_chans", "in_channels")
WEIGHT_FILES = ("ckpt_path", "ckpt_data", "pretrained_cfg_overlay")

_ENCODERS: Mapping[type, tuple[tuple[str, ...], Mapping[str, str]]] = {
    Timm: (TIMM_FIELDS, {**FORBIDDEN_TIMM_OPTIONS, "padding": "its networks take none"}),
    TerraTorch: (TERRATORCH_FIELDS, FORBIDDEN_TERRATORCH_OPTIONS),
}
"""The arguments that are fields of an encoder, and those that it cannot have, each with the reason."""


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
    absent = name.partition(".")[0] not in list_networks() and isinstance(describe(Timm(name), 3), Rejection)
    if absent or source == "terratorch":
        _reject_unknown_backbone(full_name, name, report)
        return None
    return _build_timm_backbone(name, arguments, report, describe)


def _reject_unknown_backbone(full_name: str, name: str, report: Diagnostics) -> None:
    if name in UNSUPPORTED_BACKBONES:
        reason, instead = UNSUPPORTED_BACKBONES[name]
        report.add_problem(
            "backbone", f"{name} cannot be had: {reason}.", f"backbone: {instead}".replace("/", "_"), "part"
        )
        return
    near = find_close_matches(name, [*FAMILIES, *(n for n in list_networks() if n[:3] == name[:3])], cutoff=0.75)
    fix = f"did you mean {' or '.join(near)}?" if near else None
    report.add_problem("backbone", f"TerraTorch 1.2.11 has no backbone {full_name!r}.", fix, "part")


def _build_terratorch_backbone(name: str, arguments: Arguments, report: Diagnostics) -> Backbone | None:
    """Build a backbone of TerraTorch's own. Nothing is asked of TerraTorch: it need not be installed."""
    kind = FAMILIES[name].kind
    frames, pooling, rest = parse_temporal_wrapper(arguments, report)
    padding = parse_padding(get_patch_side(name), rest, report)
    if kind == "dofa" and rest.get("img_size", 224) % padding.multiple:
        # Its positions are of one size, so that nothing runs in TerraTorch.
        padding = Padding()
    rest = _parse_weights(rest.drop("padding"), report, WEIGHT_FILES, always=CONSTRUCTORS[kind].reads_file)
    rest = _parse_levels(name, _drop_ignored(name, rest, report), report)
    rest, stated = _parse_frames(kind, rest, report)
    parse = _parse_modalities if "modalities" in FAMILIES[name].fields else _parse_channels
    rest, counts = parse(name, rest, report)
    report.origins["encoder"] = rest
    encoder = _construct_encoder(TerraTorch, name, rest, report)
    images = {key: build_image(count, frames or stated, arguments, report) for key, (_, count) in counts.items()}
    known = {key: (counts[key][0], image) for key, image in images.items() if image is not None}
    if encoder is None or not known:
        return None
    return Backbone(
        encoder=encoder,
        image=next(iter(known.values()))[1],
        modalities=known if len(known) > 1 else {},
        pooling=pooling,
        padding=padding,
        fallback=() if rest.get("vit_adapter") else HOOKS.get(kind, ()),
    )


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


def _drop_ignored(name: str, arguments: Arguments, report: Diagnostics) -> Arguments:
    """Drop the arguments that a constructor ignores in silence, with a note on each."""
    known = CONSTRUCTORS[FAMILIES[name].kind].options
    if name == "UNet":
        report.add_ignored(arguments, ["pretrained"], "the weights of UNet are random")
        return arguments.drop("pretrained")
    if not known or arguments.get("vit_adapter"):
        return arguments
    unread = [argument for argument in arguments if argument not in (*known, *IMAGE_ARGUMENTS, *TERRATORCH_FIELDS)]
    for argument in unread:
        near = find_close_matches(argument, known)
        fix = f"did you mean {arguments.format_path(near[0])}?" if near else None
        report.add_ignored(arguments, [argument], f"{name} has no such argument", fix)
    return arguments.drop(*unread)


def _parse_levels(name: str, arguments: Arguments, report: Diagnostics) -> Arguments:
    """Return the arguments with the levels that TerraTorch gives for `out_indices`, in its order."""
    indices, kind = arguments.get("out_indices"), FAMILIES[name].kind
    path = arguments.locate("out_indices")
    if kind == "torchgeo_vit":
        fix = "necks: [{name: SelectIndices, indices: […]}]"
        report.add_ignored(arguments, ["out_indices"], "the backbone gives all levels", fix)
        return arguments.drop("out_indices")
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


def _parse_frames(kind: str, arguments: Arguments, report: Diagnostics) -> tuple[Arguments, Any]:
    """Return the arguments without the number of frames that a backbone takes at once, and this number."""
    frames = arguments.get("num_frames", 1)
    if kind in ("swin", "clay") and frames != 1:
        report.add_ignored(arguments, ["num_frames"], "the backbone takes one image", "use_temporal: true")
    if kind not in ("prithvi", "swin", "clay"):
        return arguments, None
    return arguments.drop("num_frames"), frames if kind == "prithvi" and frames != 1 else None


Counts = dict[str, tuple[str, Any]]
"""The images of an encoder, by modality: the name of the input, and its number of channels."""


def _parse_channels(name: str, arguments: Arguments, report: Diagnostics) -> tuple[Arguments, Counts]:
    """Return the arguments with `bands` as the part has them, and the channels of the image."""
    constructor = CONSTRUCTORS[FAMILIES[name].kind]
    stated = next((arguments.get(word) for word in ("in_chans", "in_channels") if word in arguments), None)
    rest = arguments.drop("in_chans", "in_channels").rename(model_bands="bands")
    if constructor.bands_argument is not None:
        bands = _flatten_bands(rest.get("bands") or constructor.bands)
        if bands is None:
            word = constructor.bands_argument
            fix = f"{arguments.format_path(word)}: [BLUE, GREEN, RED]"
            report.add_problem("backbone", f"{name} needs {word}, the names of its channels.", fix, "key")
            return rest, {}
        if stated not in (None, len(bands)):
            path = next(arguments.locate(word) for word in ("in_chans", "in_channels") if word in arguments)
            report.add_note(path, f"TerraTorch counts the bands, {len(bands)}, and not {stated}.")
        return _name_bands(name, rest, bands, report), {"": ("image", len(bands))}
    if name == "IdentityBackbone":
        widths = rest.get("out_channels")
        if isinstance(widths, list | tuple) and len(widths) == 1:
            return rest.drop("out_channels"), {"": ("image", widths[0])}
        fix = f"{rest.format_path('out_channels')}: [{stated or 3}]"
        report.add_problem("backbone", f"{name} needs out_channels, the channels of its image.", fix, "key")
        return rest, {}
    return rest, {"": ("image", stated or TOKENIZER_CHANNELS.get(name.rpartition("_")[2], 3))}


def _flatten_bands(bands: Any) -> list[str] | None:
    """Return the names of bands: of numbers, intervals of two numbers, and members of TerraTorch's enumerations."""
    if not isinstance(bands, list | tuple):
        return None
    names: list[str] = []
    for band in bands:
        interval = isinstance(band, tuple) and len(band) == 2 and all(type(end) is int for end in band)
        entries = range(band[0], band[1] + 1) if interval else [getattr(band, "value", band)]
        names += [str(entry).removeprefix("HLSBands.").removeprefix("OpticalBands.") for entry in entries]
    return names


def _name_bands(name: str, arguments: Arguments, bands: list[str], report: Diagnostics) -> Arguments:
    """Return the arguments with the names of bands; without, where they are numbers, which no weights have."""
    numbered = all(band.isdigit() for band in bands)
    if numbered and FAMILIES[name].kind == "clay":
        message = "Clay knows no wavelength of a number, and makes the same kernel for each of these bands"
        report.add_note(arguments.locate("bands"), f"{message}.", f"{arguments.format_path('bands')}: [BLUE, …]")
    elif numbered and FAMILIES[name].kind != "dofa":
        if arguments.get("pretrained"):
            message = "TerraTorch starts the kernels of numbers at random; here these are the bands of the weights"
            fix = f"name them: {arguments.format_path('bands')}: [BLUE, …]"
            report.add_note(arguments.locate("bands"), f"{message}, in order.", fix)
        return arguments.drop("bands")
    return arguments.replace(bands=bands)


_SPELLINGS = {"sen2l2a": "S2L2A", "sen2l1c": "S2L1C", "sen1rtc": "S1RTC", "sen1": "S1GRD", "rgb": "RGB", "dem": "DEM"}


def _parse_modalities(name: str, arguments: Arguments, report: Diagnostics) -> tuple[Arguments, Counts]:
    """Return the arguments with `modalities` and `bands` by TerraMind's names, and the images of the modalities.

    Without modalities TerraTorch makes one of its own, `image`.
    """
    given = arguments.get("modalities") or [{"image": arguments.get("in_chans", 3)}]
    named = arguments.get("bands")
    bands = {
        _spell_modality(key): _flatten_bands(value) or value
        for key, value in (named.items() if isinstance(named, Mapping) else ())
    }
    counts: Counts = {}
    for entry in [given] if isinstance(given, Mapping) else given:
        for key, count in entry.items() if isinstance(entry, Mapping) else [(entry, None)]:
            modality = _spell_modality(key) if count is None else key
            if count is None and modality not in MODALITIES:
                message = f"{name} takes images of {', '.join(MODALITIES)} (got {key!r})."
                fix = f"{{{key}: CHANNELS}} is a new modality without weights"
                report.add_problem(arguments.locate("modalities"), message, fix)
                continue
            known = len(bands[modality]) if modality in bands else MODALITIES.get(modality)
            counts[modality] = (key if key.isidentifier() else modality, known if count is None else count)
    rest = arguments.drop("in_chans").replace(modalities=list(counts), **({"bands": bands} if bands else {}))
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
    if encoder is None or image is None:
        return None
    info = describe(encoder, image.channels)
    if isinstance(info, Rejection):
        # The network rejects its arguments.
        origin, path = report.find_origin(f"encoder.{info.about or ''}") or (arguments, "backbone")
        got = f" (got {info.got})" if info.got else ""
        fix = info.fix and format_fix(info.fix, origin)
        report.add_problem(path, f"{get_part_name(encoder)} {info.expected}{got}.", fix, info.code)
        return None
    encoder, padding = _resolve_padding(encoder, info, image.channels, arguments, describe)
    return Backbone(encoder=encoder, image=image, pooling=pooling, padding=padding)


E = TypeVar("E", Timm, TerraTorch)


def _construct_encoder(cls: type[E], name: str, arguments: Arguments, report: Diagnostics) -> E | None:
    """Build an encoder: the arguments that are not fields of its own are its options."""
    fields, forbidden = _ENCODERS[cls]
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
