"""Arguments that TerraTorch's constructors take for a declaration, and the rejection of those that cannot work."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from terratorch.models.backbones.clay_v1.embedder import Embedder
from terratorch.models.backbones.clay_v1.modules import WAVELENGTHS
from terratorch.models.backbones.dofa_vit import waves_list
from terratorch.models.backbones.prithvi_mae import PrithviViT
from terratorch.models.backbones.swin_encoder_decoder import MMSegSwinTransformer
from terratorch.models.backbones.terramind.tokenizer.vqvae import VQ

from composer.adapters.rejections import (
    reject_all_sizes,
    reject_network,
    reject_option,
    reject_unknown_option,
    suggest_arguments,
)
from composer.adapters.terratorch.parts import CLAY, MODALITIES, SCALE_MAE, SWIN, UNREGISTERED, TerraTorch
from composer.adapters.weights import reject_weights
from composer.errors import format_error, suggest
from composer.layouts import format_count
from composer.parts.base import Channels
from composer.parts.rules import Kind, Rejection, RejectionError

_SCALE_MAE_OPTIONS = (
    "default_input_res init_values qk_norm drop_rate pos_drop_rate proj_drop_rate attn_drop_rate drop_path_rate"
)
"""The options of ScaleMAE; others of timm's reach layers that are not part of its forward."""


def check_options(part: TerraTorch) -> None:
    """Raise RejectionError for options that TerraTorch ignores or misreads."""
    options = dict(part.options)
    _check_frames(part.frames or 1, options.get("patch_size"))
    size = options.get("img_size")
    if part.takes_names and isinstance(size, tuple) and len(set(size)) > 1:
        fix = f"img_size: {max(size)}; images of any shape are fed all the same"
        raise RejectionError(reject_option("takes its positions for those of a square", f"img_size: {list(size)}", fix))
    known = _list_known_options(part)
    for name in options:
        if known is not None and name not in known:
            library = f"terratorch {version('terratorch')}"
            raise RejectionError(reject_unknown_option(f"has no argument {name!r}", name, known, library))


def _list_known_options(part: TerraTorch) -> set[str] | None:
    """Return the arguments with an effect, of a backbone whose constructor ignores others; None of any other."""
    if part.name in SCALE_MAE:
        return set(_SCALE_MAE_OPTIONS.split())
    constructors: Mapping[type, bool] = {
        Embedder: part.name in CLAY,
        MMSegSwinTransformer: part.name in SWIN,
        VQ: "_tokenizer_" in part.name,
        PrithviViT: "frames" in part.family.fields,
    }
    constructor = next((kind for kind, matches in constructors.items() if matches), None)
    if constructor is None:
        return None
    return {"return_type", "vit_adapter", *inspect.signature(constructor).parameters} - {"kwargs"}


def _check_frames(frames: int, patch: Any) -> None:
    """Reject frames that are not a multiple of the patch's: a convolution would drop the last ones."""
    deep = patch[0] if isinstance(patch, tuple) and len(patch) == 3 else 1
    if isinstance(deep, int) and deep > 1 and frames % deep:
        enough = -(-frames // deep) * deep
        expected = f"has patches of {deep} frames, so frames must be a multiple of {deep}"
        fix = f"input: {{frames: {enough}}}, and frames: {enough} if the encoder says frames"
        kind: Kind = "wrong_output" if frames > deep else "raises"
        raise _make_error("frames", expected, format_count(frames, "frame"), fix, "options.patch_size", kind)


def _make_error(
    code: str, expected: str, got: str, fix: str, about: str | None = None, kind: Kind = "raises"
) -> RejectionError:
    return RejectionError(Rejection(code=code, kind=kind, expected=expected, got=got, fix=fix, about=about))


def build_image_arguments(part: TerraTorch, channels: Channels) -> dict[str, Any]:
    """Return the arguments of a constructor that describe its images. Raises RejectionError for images it rejects."""
    if part.takes_names:
        bands = _map_modality_bands(part, channels)
        modalities = _build_modalities(part, channels, bands)
        return {"modalities": modalities} | ({"bands": bands} if bands else {})
    assert isinstance(channels, int)
    if "frames" in part.family.fields:
        return {"num_frames": part.frames or 1, "bands": _list_bands(part, channels)}
    if part.name.startswith("dofa_"):
        return {"model_bands": _list_bands(part, channels, waves_list)}
    if part.name in UNREGISTERED:
        return {"bands": _list_bands(part, channels, WAVELENGTHS if part.name in CLAY else None)}
    if part.name == "UNet":
        return {"in_channels": channels}
    if "bands" not in part.family.fields:
        return {}
    # timm then resamples the positions of a ViT; at its default size, nothing changes.
    flexible = "_vit_" in part.name and "dynamic_img_size" not in dict(part.options)
    return {"model_bands": _list_bands(part, channels)} | ({"dynamic_img_size": True} if flexible else {})


def _list_bands(part: TerraTorch, count: int, wavelengths: Mapping[str, float] | None = None) -> list[Any]:
    """Return the names of the channels; numbers, which no weights have, where the part has no names.

    With `wavelengths`, all of them must be known there.
    """
    bands = part.channel_bands
    if bands is None and wavelengths is None:
        return list(range(count))
    if bands is None:
        expected = "makes its first layer for the wavelengths of its bands"
        got = f"{format_count(count, 'channel')} without names"
        raise _make_error("argument", expected, got, "bands: [BLUE, GREEN, RED], say, one for each channel", "bands")
    _check_count(bands, count, "bands")
    for position, name in enumerate(bands):
        if wavelengths is not None and name not in wavelengths:
            fix = suggest(name, wavelengths)
            raise _make_error("argument", "does not know this band", name, fix, f"bands[{position}]")
    return list(bands)


def _check_count(bands: Sequence[str], count: int, about: str) -> None:
    if len(bands) != count:
        expected = f"has {format_count(len(bands), 'band')}, one for each channel of its image"
        fix = f"input: {{channels: {len(bands)}}}"
        raise _make_error("argument", expected, format_count(count, "channel"), fix, about)


def _map_modality_bands(part: TerraTorch, channels: Channels) -> dict[str, list[str]]:
    """Return the names of the channels by modality, for those of TerraMind's modalities that the part has names for."""
    fed = dict(channels) if not isinstance(channels, int) else dict.fromkeys(part.modalities or (), channels)
    try:
        bands_of = part.get_modality_bands(tuple(fed))
    except ValueError as error:
        expected, fix = "takes the bands of each image by its modality", "bands: {MODALITY: [BAND, …]}"
        raise _make_error("argument", expected, "a list", fix, "bands") from error
    for name, bands in bands_of.items():
        if name not in fed or name not in MODALITIES:
            fix = suggest(name, [modality for modality in fed if modality in MODALITIES])
            raise _make_error("argument", "is not fed an image whose bands have names", name, fix, f"bands.{name}")
        _check_count(bands, fed[name], f"bands.{name}")
    return {name: list(bands) for name, bands in bands_of.items()}


def _build_modalities(part: TerraTorch, channels: Channels, bands: Mapping[str, list[str]]) -> list[Any]:
    """Return TerraMind's own modalities by their names, and new ones with their channels."""
    declared = part.modalities
    if isinstance(channels, int):
        if declared is None or len(declared) != 1:
            sources = f"from: {{{', '.join(f'{name}: IMAGE' for name in declared or ('S2L2A',))}}}"
            fix = sources if declared else f"modalities: [S2L2A] or {sources}"
            raise _make_error("inputs", "takes images by their modality", "an image without a name", fix)
        channels = ((declared[0], channels),)
    names = [name for name, _ in channels]
    got, listed = f"images named {', '.join(names)}", f"modalities: [{', '.join(names)}]"
    if declared is not None and set(declared) != set(names):
        raise _make_error("inputs", f"is declared to take {', '.join(declared)}", got, listed, "modalities")
    for name, count in channels:
        if name not in MODALITIES and declared is None:
            fix = f"{suggest(name, MODALITIES).rstrip('?')}; or for a modality of your own, {listed}"
            raise _make_error("inputs", f"has no weights for a modality {name!r}", got, fix, kind="policy")
        wanted = MODALITIES.get(name, count)
        if name not in bands and wanted != count:
            expected = f"takes an image of {format_count(wanted, 'channel')} as {name}"
            fix = f"{{channels: {wanted}}} for that input, or its own name"
            raise _make_error("channels", expected, format_count(count, "channel"), fix)
    return [name if name in MODALITIES else {name: count} for name, count in channels]


def reject_terratorch_arguments(part: TerraTorch, error: Exception) -> Rejection:
    """Reject arguments that TerraTorch raises `error` for."""
    return reject_network("cannot be made", format_error(error), suggest_arguments(name for name, _ in part.options))


def reject_terratorch_sizes(part: TerraTorch, channels: Channels, error: Exception | None) -> Rejection:
    """Reject a network that raised `error` at every size; without an error, one whose outputs are not features."""
    got = format_error(error) if error else "no maps, and no tokens that follow the size of the image"
    return reject_all_sizes(channels, got, (name for name, _ in part.options))


def reject_terratorch_weights(part: TerraTorch, error: Exception) -> Rejection:
    """Reject weights that cannot be loaded or do not match."""
    if part.pretrained is True:
        named = "that TerraTorch names for it"
        fix = "check the connection, give the path of a weights file, or set pretrained: false"
    else:
        named = "of this file"
        fix = "give the path of a weights file that fits this backbone, or set pretrained: false"
    return reject_weights(f"cannot load the weights {named}", error, fix, part.pretrained)
