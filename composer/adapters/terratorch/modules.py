"""Modules of TerraTorch's backbones, with random, published or a file's weights."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from terratorch.datasets import HLSBands
from terratorch.models.backbones.clay_v1.embedder import Embedder
from terratorch.models.backbones.clay_v1.embedder import default_cfgs as of_timm
from terratorch.models.backbones.dofa_vit import DOFAEncoderWrapper, resize_pos_embed
from terratorch.models.backbones.prithvi_mae import PrithviViT
from terratorch.models.backbones.prithvi_swin import PRETRAINED_BANDS as BANDS_OF_SWIN
from terratorch.models.backbones.prithvi_swin import convert_weights_swin2mmseg
from terratorch.models.backbones.prithvi_vit import (
    PRETRAINED_BANDS,
    checkpoint_filter_fn_vit,
    checkpoint_filter_fn_vit_adapter,
)
from terratorch.models.backbones.prithvi_vit import pretrained_weights as of_prithvi
from terratorch.models.backbones.prithvi_vit_adapter import PrithviViTAdapter
from terratorch.models.backbones.scalemae import PRETRAINED_BANDS as BANDS_OF_SCALE_MAE
from terratorch.models.backbones.scalemae import VisionTransformer as ScaleMAE
from terratorch.models.backbones.terramind.model.terramind_register import PRETRAINED_BANDS as BANDS_OF_TERRAMIND
from terratorch.models.backbones.terramind.model.terramind_register import pretrained_weights as of_terramind
from terratorch.models.backbones.terramind.model.terramind_vit import TerraMindViT
from terratorch.models.backbones.terramind.tokenizer.tokenizer_backbones_register import (
    pretrained_weights as of_tokenizers,
)
from terratorch.models.backbones.terramind.tokenizer.vqvae import VQ
from terratorch.models.backbones.torchgeo_vit import look_up_table
from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY
from torch import Tensor, nn

from composer.adapters.probing import CPULinspace
from composer.adapters.rejections import convert_errors
from composer.adapters.terratorch.arguments import reject_terratorch_arguments, reject_terratorch_weights
from composer.adapters.terratorch.networks import create_terratorch_backbone, wrap_backbone
from composer.adapters.terratorch.networks import probe as probe
from composer.adapters.terratorch.parts import CLAY, MODALITIES, SWIN, UNREGISTERED, TerraTorch
from composer.adapters.weights import check_reachable, fetch_file, read_file_weights
from composer.errors import suggest
from composer.layouts import Features
from composer.modules.base import get_default_device, module
from composer.parts import EncoderInfo
from composer.parts.base import Channels
from composer.parts.encoders import get_weights_file
from composer.parts.registry import guard_import
from composer.tensors.matching import LoadedWeights, TensorState, match

State = dict[str, Tensor]

RenamedState = tuple[State, str, list[str]]
"""A state, the name of its first layer, and the bands of that."""

_HUB_URL = re.compile(r"https://(?:hf\.co|huggingface\.co)/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")

_CLAY_FILES = {name: vars(of_timm[name].default) for name in CLAY}

_PUBLISHED_FILES: Mapping[str, Mapping[str, str]] = {**of_prithvi, **of_terramind, **of_tokenizers, **_CLAY_FILES}


@module.register(TerraTorch)
def _(
    part: TerraTorch,
    image: Features = (),
    /,
    *,
    facts: EncoderInfo,  # noqa: ARG001
    pretrained: bool = True,
    **named: Features,
) -> nn.Module:
    """Build the backbone with random weights, or with others where the part asks and `pretrained` allows."""
    fed = part.copy_with_inputs(*image)
    channels: Channels = tuple((name, features[0].channels) for name, features in named.items()) or image[0].channels
    weighted = pretrained and part.pretrained
    if weighted and part.name.endswith("_tim"):
        with convert_errors(lambda error: reject_terratorch_weights(fed, error)):
            network = _create_with_tokenizers(fed, channels)
        backbone = wrap_backbone(fed, network, channels)
        backbone.loaded_weights = LoadedWeights()
        return backbone.train()
    linspace = CPULinspace() if get_default_device() == "meta" else nullcontext()
    with convert_errors(lambda error: reject_terratorch_arguments(fed, error)), linspace:
        network = create_terratorch_backbone(fed, channels)
    backbone = wrap_backbone(fed, network, channels)
    if weighted:
        with convert_errors(lambda error: reject_terratorch_weights(part, error)):
            backbone.loaded_weights = _load_terratorch_weights(part, network)
    return backbone.train()


def _load_terratorch_weights(part: TerraTorch, network: nn.Module) -> LoadedWeights:
    """Fill the network with its weights. Raises where they cannot be loaded, or do not fill it."""
    source = get_weights_file(part.pretrained)
    file, prefix = source or ("", None)
    state = read_file_weights(Path(file)) if source else _fetch_published_state(part)
    published = _get_published_weights(part)

    def convert(tensors: dict[str, Tensor]) -> TensorState:
        return convert_state_dict(tensors, network, part, published)

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
    """Return the repository and the file of the weights that TerraTorch names itself."""
    published = _PUBLISHED_FILES[part.name.removesuffix("_tim")]
    return published["hf_hub_id"], published["hf_hub_filename"]


_STEMS = {"resnet_model": "conv1", "swin_model": "features.0.0", "vit_model": "patch_embed.proj"}
"""The first layer of torchgeo's networks, by the attribute of TerraTorch's wrapper that holds the network."""


def convert_state_dict(state: Mapping[str, Tensor], network: Any, part: TerraTorch, published: Any) -> State:
    """Return the state of `network` from the tensors of `state`, with the network's own where `state` cannot have any.

    Those are a classifier's, which no feature needs, and those of bands and modalities that `state` was not trained
    on. Raises ValueError where its bands are unknown; tensors that are missing, unexpected or of another shape are
    left in, for torch to reject.
    """
    if isinstance(network, PrithviViT):
        return _convert_prithvi(state, network, part)
    if isinstance(network, TerraMindViT):
        return _convert_terramind(state, network, part)
    if isinstance(network, VQ):
        return {name: value for name, value in state.items() if not name.startswith("decoder.")}
    if isinstance(network, DOFAEncoderWrapper):
        return _convert_dofa(state, network, part)
    if isinstance(network, Embedder):
        return _convert_clay(state, network)
    if isinstance(network, ScaleMAE) or part.name in SWIN:
        own = network.state_dict()
        renamed, stem, known = (_convert_swin if part.name in SWIN else _convert_scale_mae)(state, own)
        theirs = _get_stem(renamed, stem, own[stem])
        return {**renamed, stem: _merge_stem(theirs, own[stem], _resolve_bands(part, known, own[stem]), known)}
    inner = next((name for name in _STEMS if hasattr(network, name)), None)
    return dict(state) if inner is None else _convert_torchgeo(state, network, inner, part, published)


def _convert_prithvi(state: Mapping[str, Tensor], network: Any, part: TerraTorch) -> State:
    own = network.state_dict()["patch_embed.proj.weight"]
    stem = next((name for name in state if name.endswith("patch_embed.proj.weight")), "patch_embed.proj.weight")
    _get_stem(state, stem, own)
    known = [band.value for band in PRETRAINED_BANDS]
    bands = [HLSBands.try_convert_to_hls_bands_enum(name) for name in _resolve_bands(part, known, own)]
    select = checkpoint_filter_fn_vit_adapter if isinstance(network, PrithviViTAdapter) else checkpoint_filter_fn_vit
    with guard_import():
        found: State = select(dict(state), network, PRETRAINED_BANDS, bands)
    return found


def _convert_terramind(state: Mapping[str, Tensor], network: Any, part: TerraTorch) -> State:
    state = {**state, **_select_terramind_bands(state, network, part)}
    fresh = [f"encoder_embeddings.{key}." for name, key in network.mod_name_mapping.items() if name not in MODALITIES]
    own = network.state_dict()

    def is_own_weight(name: str, value: Tensor) -> bool:
        # Positions are computed for the size that the network is made for.
        resized = name.endswith(".pos_emb") and name in state and state[name].shape != value.shape
        return resized or name.startswith((*fresh, "missing_mod_token"))

    kept = {name: value for name, value in own.items() if is_own_weight(name, value)}
    return {**{name: value for name, value in state.items() if name in own}, **kept}


def _select_terramind_bands(state: Mapping[str, Tensor], network: Any, part: TerraTorch) -> State:
    """Return the first layers of the modalities whose bands are named, from weights of all their bands."""
    mixed = {}
    own = network.state_dict()
    known_anywhere = _list_band_names() | {band for known in BANDS_OF_TERRAMIND.values() for band in known}
    layers = {name: f"encoder_embeddings.{key}.proj.weight" for name, key in network.mod_name_mapping.items()}
    for name, bands in part.get_modality_bands([name for name, layer in layers.items() if layer in own]).items():
        layer = layers[name]
        known = BANDS_OF_TERRAMIND.get(network.mod_name_mapping[name], [])
        if layer not in state or len(known) * own[layer].shape[1] != len(bands) * state[layer].shape[1]:
            continue  # the weights are of other bands: torch rejects those of another shape
        _check_bands(bands, known, known_anywhere)
        # A row holds the bands of each pixel of a patch, pixel by pixel.
        source = state[layer].view(state[layer].shape[0], -1, len(known))
        target = own[layer].clone().view(own[layer].shape[0], -1, len(bands))
        for position, band in enumerate(bands):
            if band in known:
                target[..., position] = source[..., known.index(band)]
        mixed[layer] = target.flatten(1)
    return mixed


def _convert_dofa(state: Mapping[str, Tensor], network: Any, part: TerraTorch) -> State:
    positions, own = state.get("pos_embed"), network.dofa_model.pos_embed
    if positions is not None and positions.shape != own.shape and positions.shape[-1] == own.shape[-1]:
        before, after = (int((count - 1) ** 0.5) for count in (positions.shape[1], own.shape[1]))
        mode = dict(part.options).get("pos_interpolation_mode", "bilinear")
        state = {**state, "pos_embed": resize_pos_embed(positions, (after, after), (before, before), mode)}
    return _prefix_state("dofa_model", state, network)


def _convert_clay(state: Mapping[str, Tensor], network: Any) -> State:
    """Convert the encoder of Clay's masked autoencoder. The user's own prompts are kept: no weights have any."""
    renamed = {re.sub(r"^model\.encoder\.", "clay_encoder.", name): value for name, value in state.items()}
    prompts = {name: value for name, value in network.state_dict().items() if "vpt_prompt_embeddings" in name}
    return {**prompts, **{name: value for name, value in renamed.items() if name.startswith("clay_encoder.")}}


def _convert_scale_mae(state: Mapping[str, Tensor], own: State) -> RenamedState:
    """Convert the encoder of ScaleMAE, whose learned positions are not used."""
    kept = {name: value for name, value in state.items() if name in own}
    return {**kept, "pos_embed": own["pos_embed"]}, "patch_embed.proj.weight", [b.value for b in BANDS_OF_SCALE_MAE]


_IGNORED_KEYS = re.compile(r"^(head\.|norm\d*\.|mask_token|decoder)|\.attn_mask$")
"""Tensors of a Swin that no feature needs: its classifier, its last layers, and those of its training."""


def _convert_swin(state: Mapping[str, Tensor], own: State) -> RenamedState:
    """Convert a Swin as MMSegmentation writes it, with or without `backbone.`, or the encoder of the original one."""
    if any(name.startswith("encoder.") for name in state):
        encoder = {name.removeprefix("encoder."): value for name, value in state.items()}
        state = convert_weights_swin2mmseg({n: value for n, value in encoder.items() if not _IGNORED_KEYS.search(n)})
    renamed = {re.sub(r"^(backbone\.)?(stages\.)?", _format_stage_prefix, name): value for name, value in state.items()}
    # The distances of the cells of a window are computed, and older files lack them.
    computed = {name: value for name, value in own.items() if name.endswith("relative_position_index")}
    kept = {name: value for name, value in renamed.items() if not _IGNORED_KEYS.search(name)}
    return {**computed, **kept}, "patch_embed.projection.weight", [band.value for band in BANDS_OF_SWIN]


def _format_stage_prefix(found: re.Match[str]) -> str:
    return "stages_" if found[2] else ""


def _convert_torchgeo(state: Mapping[str, Tensor], network: Any, inner: str, part: TerraTorch, published: Any) -> State:
    stem = f"{_STEMS[inner]}.weight"
    own = network.state_dict()[f"{inner}.{stem}"]
    names = list(published.meta.get("bands") or ())
    theirs = _get_stem(state, stem, own)
    if part.channel_bands is None and (not names or len(names) == own.shape[1]):
        return _prefix_state(inner, state, network)
    if part.channel_bands is not None and not names:
        raise ValueError("these weights do not name their bands: leave bands out")
    # TerraTorch reads Landsat's numbers as Sentinel-2's, so its blue would be taken for green.
    is_landsat = "landsat" in part.name
    known = names if is_landsat else [look_up_table.get(name, name) for name in names]
    spelled = dict(zip(names, known, strict=True))
    asked = part.channel_bands and [spelled.get(name, name) for name in part.channel_bands]
    bands = _resolve_bands(part, known, own, asked, set(known) if is_landsat else {*known, *_list_band_names()})
    return _prefix_state(inner, {**state, stem: _merge_stem(theirs, own, bands, known)}, network)


def _get_stem(state: Mapping[str, Tensor], name: str, own: Tensor) -> Tensor:
    """Return the first layer of `state`. Raises ValueError where it is missing or, channels aside, of another shape.

    TerraTorch would go on with a random one.
    """
    if name not in state:
        raise ValueError(f"there is no first layer {name.removesuffix('.weight')} in it")
    stem = state[name]
    if [*stem.shape[:1], *stem.shape[2:]] != [*own.shape[:1], *own.shape[2:]]:
        raise ValueError(f"its first layer is of shape {list(stem.shape)}, and the network's of {list(own.shape)}")
    return stem


def _merge_stem(stem: Tensor, own: Tensor, bands: Sequence[str], known: Sequence[str]) -> Tensor:
    """Return the first layer `own` for `bands`, with the channels of `stem`, a first layer for the bands `known`."""
    mixed = own.clone()
    for position, band in enumerate(bands):
        if band in known:
            mixed[:, position] = stem[:, known.index(band)]
    return mixed


def _resolve_bands(
    part: TerraTorch,
    known: Sequence[str],
    own: Tensor,
    asked: Sequence[str] | None = None,
    valid: set[str] | None = None,
) -> Sequence[str]:
    """Return the bands of the channels; those of the weights where none are named and there are as many."""
    bands = part.channel_bands if asked is None else asked
    if bands is None:
        if own.shape[1] != len(known):
            listed = ", ".join(known)
            raise ValueError(f"the weights are of {len(known)} bands, {listed}: name those of the image as bands")
        return known
    _check_bands(bands, known, _list_band_names() if valid is None else valid)
    return bands


def _check_bands(bands: Sequence[str], known: Sequence[str], valid: set[str]) -> None:
    """Raise ValueError for a band that is not `valid`, and where the weights have none of the bands."""
    for band in bands:
        if band not in valid:
            raise ValueError(f"there is no band {band!r}: {suggest(band, valid)}")
    if not set(bands) & set(known):
        raise ValueError(f"the weights are of none of these bands, but of {', '.join(known)}")


def _list_band_names() -> set[str]:
    return {band.value for band in HLSBands} | set(look_up_table.values())


def _prefix_state(inner: str, state: Mapping[str, Tensor], network: Any) -> State:
    """Return the state of a wrapper with the inner network's from `state`, and with its own classifier."""
    classifiers = ("fc.", "head.", "fc_norm.")
    own = {n: x for n, x in network.state_dict().items() if n.startswith(tuple(f"{inner}.{c}" for c in classifiers))}
    return {**own, **{f"{inner}.{name}": x for name, x in state.items() if not name.startswith(classifiers)}}
