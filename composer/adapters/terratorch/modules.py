"""Modules of TerraTorch's backbones, with random, published or a file's weights."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from terratorch.models.backbones.clay_v1.embedder import default_cfgs as of_clay
from terratorch.models.backbones.dofa_vit import resize_pos_embed
from terratorch.models.backbones.prithvi_swin import PRETRAINED_BANDS as BANDS_OF_SWIN
from terratorch.models.backbones.prithvi_swin import convert_weights_swin2mmseg
from terratorch.models.backbones.prithvi_vit import PRETRAINED_BANDS
from terratorch.models.backbones.prithvi_vit import pretrained_weights as of_prithvi
from terratorch.models.backbones.scalemae import PRETRAINED_BANDS as BANDS_OF_SCALE_MAE
from terratorch.models.backbones.terramind.model.terramind_register import PRETRAINED_BANDS as BANDS_OF_TERRAMIND
from terratorch.models.backbones.terramind.model.terramind_register import pretrained_weights as of_terramind
from terratorch.models.backbones.terramind.tokenizer.tokenizer_backbones_register import (
    pretrained_weights as of_tokenizers,
)
from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY
from torch import Tensor, nn

from composer.adapters.probing import CPULinspace
from composer.adapters.rejections import convert_errors
from composer.adapters.terratorch.networks import (
    TerraTorchBackbone,
    create_terratorch_backbone,
    reject_terratorch_arguments,
)
from composer.adapters.terratorch.networks import probe as probe
from composer.adapters.terratorch.parts import MODALITIES, UNREGISTERED, TerraTorch
from composer.adapters.weights import check_reachable, fetch_file, read_file_weights, reject_weights
from composer.bands import BAND_SYNONYMS
from composer.errors import suggest
from composer.layouts import Features
from composer.modules.base import get_default_device, module
from composer.parts import EncoderInfo
from composer.parts.base import Channels
from composer.parts.encoders import get_weights_file
from composer.parts.rules import Rejection
from composer.tensors.matching import LoadedWeights, match

State = dict[str, Tensor]
_HUB_URL = re.compile(r"https://(?:hf\.co|huggingface\.co)/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_CLAY_FILE = {"clay_v1_base": vars(of_clay["clay_v1_base"].default)}

_PUBLISHED_FILES: Mapping[str, Mapping[str, str]] = {**of_prithvi, **of_terramind, **of_tokenizers, **_CLAY_FILE}
"""The repository and the file of the weights that TerraTorch names itself."""


@module.register(TerraTorch)
def _(
    part: TerraTorch,
    image: Features = (),
    /,
    *,
    info: EncoderInfo,  # noqa: ARG001
    pretrained: bool = True,
    **named: Features,
) -> nn.Module:
    """Build the backbone with random weights, or with others where the part asks and `pretrained` allows."""
    fed = part.copy_with_inputs(*image)
    channels: Channels = tuple((name, features[0].channels) for name, features in named.items()) or image[0].channels
    weighted = pretrained and part.pretrained
    loads = partial(convert_errors, partial(_reject_weights, part))
    loaded: LoadedWeights | None = None
    if weighted and part.family.kind == "tim":
        with loads():
            network, loaded = _create_with_tokenizers(fed, channels), LoadedWeights()
    else:
        linspace = CPULinspace() if get_default_device() == "meta" else nullcontext()
        with convert_errors(partial(reject_terratorch_arguments, fed)), linspace:
            network = create_terratorch_backbone(fed, channels)
        if weighted:
            with loads():
                loaded = _load_terratorch_weights(part, network)
    backbone = TerraTorchBackbone(network, fed, channels, fed.out_indices)
    backbone.loaded_weights = loaded
    return backbone.train()


def _reject_weights(part: TerraTorch, error: Exception) -> Rejection:
    """Reject weights that cannot be loaded or do not match."""
    named, fix = "that TerraTorch names for it", "check the connection, give the path of a weights file"
    if part.pretrained is not True:
        named, fix = "of this file", "give the path of a weights file that fits this backbone"
    return reject_weights(
        f"cannot load the weights {named}", error, f"{fix}, or set pretrained: false", part.pretrained
    )


def _load_terratorch_weights(part: TerraTorch, network: nn.Module) -> LoadedWeights:
    """Fill the network with its weights. Raises where they cannot be loaded, or do not fill it."""
    source = get_weights_file(part.pretrained)
    file, prefix = source or ("", None)
    state = read_file_weights(Path(file)) if source else _fetch_published_state(part)
    convert = partial(convert_state_dict, network=network, part=part, published=_get_published_weights(part))
    wanted = network.state_dict(keep_vars=True)
    found = match(state, wanted, convert, prefix=prefix)
    found.fill(wanted)
    return found.report(file) if source else LoadedWeights()


def _create_with_tokenizers(part: TerraTorch, channels: Channels) -> Any:
    """Create TerraMind with thinking in modalities and its weights: TerraTorch only makes it with its tokenizers."""
    if part.pretrained is not True:
        raise ValueError("its weights are of several files, which TerraTorch downloads by itself")
    check_reachable(*_get_hub_file(part))
    return create_terratorch_backbone(part, channels, pretrained=True)


def _fetch_published_state(part: TerraTorch) -> dict[str, Tensor]:
    """Read the tensors that TerraTorch names for a part, without running code of the file. Raises where it cannot."""
    if part.name in _PUBLISHED_FILES:
        return read_file_weights(fetch_file(*_get_hub_file(part)))
    published = _get_published_weights(part)
    if published is None:
        raise FileNotFoundError("TerraTorch names none for this backbone")
    cached = Path(torch.hub.get_dir()) / "checkpoints" / published.url.rpartition("/")[2]
    found = _HUB_URL.fullmatch(published.url)
    if found and not cached.is_file():
        check_reachable(f"{found[1]}@{found[2]}", found[3])
    return dict(published.get_state_dict(progress=False, weights_only=True))


def _get_published_weights(part: TerraTorch) -> Any:
    """Return torchgeo's weights for a name, the default of its constructor; None of any other."""
    if part.name in UNREGISTERED:
        return None
    parameters = inspect.signature(TERRATORCH_BACKBONE_REGISTRY[part.name]).parameters
    return parameters["weights"].default if "weights" in parameters else None


def _get_hub_file(part: TerraTorch) -> tuple[str, str]:
    published = _PUBLISHED_FILES[part.name.removesuffix("_tim")]
    return published["hf_hub_id"], published["hf_hub_filename"]


@frozen
class Conversion:
    """A conversion of the tensors of a checkpoint into those of a network.

    What `strip` matches in a name is replaced by `prefix`. Tensors whose names `own` matches stay the network's: no
    weights have them. The first layer `stem` is one of the `bands`.
    """

    strip: str = "^"
    prefix: str = ""
    own: str = "(?!)"
    stem: str = ""
    bands: Sequence[str] = ()


_STEM = "patch_embed.proj.weight"

# Positions are computed for the frames, and an adapter's layers and the user's prompts have no weights.
_PRITHVI_OWN = r"^pos_embed$|vpt_prompt_embeddings|^(level_embed|spm|interactions|up|norm[1-4])\b"

_CONVERSIONS = {
    "prithvi": Conversion(r"^encoder\.", "", _PRITHVI_OWN, _STEM, [band.value for band in PRETRAINED_BANDS]),
    "clay": Conversion(r"^model\.encoder\.", "clay_encoder.", "vpt_prompt_embeddings"),
    "scalemae": Conversion(own="^pos_embed$", stem=_STEM, bands=[band.value for band in BANDS_OF_SCALE_MAE]),
    "swin": Conversion(stem="patch_embed.projection.weight", bands=[band.value for band in BANDS_OF_SWIN]),
}
"""The conversions of networks that are not torchgeo's, by kind."""

_STEMS = {"resnet_model": "conv1", "swin_model": "features.0.0", "vit_model": "patch_embed.proj", "dofa_model": ""}
"""The first layer of torchgeo's networks, by the attribute of TerraTorch's wrapper that holds the network."""


def _choose_conversion(network: Any, part: TerraTorch, published: Any) -> Conversion:
    inner = next((name for name in _STEMS if hasattr(network, name)), None)
    if inner is None or part.family.kind in _CONVERSIONS:
        return _CONVERSIONS.get(part.family.kind, Conversion())
    bands = [] if published is None else published.meta.get("bands") or []
    own = rf"^{inner}\.(fc|head|fc_norm)\."
    return Conversion("^", f"{inner}.", own, f"{inner}.{_STEMS[inner]}.weight", bands)


def convert_state_dict(state: Mapping[str, Tensor], network: Any, part: TerraTorch, published: Any) -> State:
    """Return the state of `network` from the tensors of `state`, with the network's own where `state` cannot have any.

    Raises ValueError where its bands are unknown. Tensors that are missing or of another shape are left to `match`.
    """
    if part.family.kind == "terramind":
        return _convert_terramind(state, network, part)
    if part.family.kind == "swin":
        state = _convert_swin(state)
    if part.family.kind == "dofa":
        state = _resize_positions(state, network.dofa_model.pos_embed, part)
    own, how = network.state_dict(), _choose_conversion(network, part, published)
    renamed = {re.sub(how.strip, how.prefix, name, count=1): value for name, value in state.items()}
    kept = {name: value for name, value in own.items() if re.search(how.own, name)}
    found = {**{name: value for name, value in renamed.items() if name in own}, **kept}
    if how.stem in found:
        # TerraTorch reads Landsat's numbers as Sentinel-2's, so its blue would be taken for green.
        known = list(map(part.normalize_band, how.bands))
        asked = None if part.channel_bands is None else list(map(part.normalize_band, part.channel_bands))
        found[how.stem] = _select_bands(found[how.stem], own[how.stem], asked, known)
    return found


def _convert_swin(state: Mapping[str, Tensor]) -> State:
    """Convert a Swin as MMSegmentation writes it, with or without `backbone.`, or the encoder of the original one."""
    if any(name.startswith("encoder.") for name in state):
        state = convert_weights_swin2mmseg({name.removeprefix("encoder."): value for name, value in state.items()})
    return {re.sub(r"^(backbone\.)?stages\.", "stages_", n).removeprefix("backbone."): x for n, x in state.items()}


def _resize_positions(state: Mapping[str, Tensor], own: Tensor, part: TerraTorch) -> Mapping[str, Tensor]:
    """Return the state of DOFA with positions for as many cells as `own` has."""
    positions = state.get("pos_embed")
    if positions is None or positions.shape == own.shape or positions.shape[-1] != own.shape[-1]:
        return state
    before, after = (int((count - 1) ** 0.5) for count in (positions.shape[1], own.shape[1]))
    mode = dict(part.options).get("pos_interpolation_mode", "bilinear")
    return {**state, "pos_embed": resize_pos_embed(positions, (after, after), (before, before), mode)}


def _convert_terramind(state: Mapping[str, Tensor], network: Any, part: TerraTorch) -> State:
    """Return the state of TerraMind, with its own layers for new modalities, and the bands of each known one."""
    own, keys = network.state_dict(), network.mod_name_mapping
    fresh = [f"encoder_embeddings.{key}." for name, key in keys.items() if name not in MODALITIES]
    found = {name: value for name, value in state.items() if name in own}
    for name, value in own.items():
        # Positions are computed for the size that the network is made for.
        resized = name.endswith(".pos_emb") and name in found and found[name].shape != value.shape
        if resized or name.startswith((*fresh, "missing_mod_token")):
            found[name] = value
    layers = {name: f"encoder_embeddings.{key}.proj.weight" for name, key in keys.items()}
    for name, bands in part.get_modality_bands([name for name, layer in layers.items() if layer in own]).items():
        layer, known = layers[name], BANDS_OF_TERRAMIND.get(keys[name], [])
        if layer in found and len(known) * own[layer].shape[1] == len(bands) * found[layer].shape[1]:
            # A row holds the bands of each pixel of a patch, pixel by pixel.
            theirs = found[layer].view(len(own[layer]), -1, len(known)).transpose(1, 2)
            ours = own[layer].view(len(own[layer]), -1, len(bands)).transpose(1, 2)
            asked = [part.normalize_band(band) for band in bands]
            found[layer] = _select_bands(theirs, ours, asked, known).transpose(1, 2).flatten(1)
    return found


def _select_bands(stem: Tensor, own: Tensor, asked: Sequence[str] | None, known: Sequence[str]) -> Tensor:
    """Return a first layer for the bands that are asked for, from one of the `known` bands; others stay `own`.

    Raises ValueError for a band that does not exist, and where there is nothing to select or no way to tell.
    """
    if asked is None:
        if known and own.shape[1] != len(known):
            listed = ", ".join(known)
            raise ValueError(f"the weights are of {len(known)} bands, {listed}: name those of the image as bands")
        return stem
    if not known:
        raise ValueError("these weights do not name their bands: leave bands out")
    for band in asked:
        if band not in (*known, *BAND_SYNONYMS):
            raise ValueError(f"there is no band {band!r}: {suggest(band, {*known, *BAND_SYNONYMS})}")
    if not set(asked) & set(known):
        raise ValueError(f"the weights are of none of these bands, but of {', '.join(known)}")
    if stem.shape[2:] != own.shape[2:] or len(stem) != len(own):
        return stem
    kernels = (stem[:, known.index(band)] if band in known else own[:, at] for at, band in enumerate(asked))
    return torch.stack([*kernels], 1)
