"""Modules of TerraTorch's backbones, with random, published or a file's weights."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
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
from composer.adapters.terratorch.networks import create_terratorch_backbone, wrap_backbone
from composer.adapters.terratorch.parts import CLAY, MODALITIES, SWIN, UNREGISTERED, TerraTorch
from composer.adapters.terratorch.probes import probe as probe
from composer.adapters.terratorch.rejections import reject_terratorch_arguments, reject_terratorch_weights
from composer.adapters.weights import check_reachable, fetch_file, read_file_weights
from composer.errors import suggest
from composer.isolation import guard_import
from composer.layouts import Features
from composer.modules.base import get_default_device, module
from composer.parts import Channels, EncoderInfo
from composer.parts.encoders import get_weights_file
from composer.parts.rules import RejectionError
from composer.tensors.matching import LoadedWeights, TensorState, match

State = dict[str, Tensor]


RenamedState = tuple[State, str, list[str]]
"""A state, the name of its first layer, and the bands of that."""


_IGNORED_KEYS = re.compile(r"^(head\.|norm\d*\.|mask_token|decoder)|\.attn_mask$")
"""What of a Swin no feature is of: its classifier and its last layers, and what it was trained with."""


def convert_clay(state: Mapping[str, Tensor], network: Any) -> State:
    """The encoder of Clay's masked autoencoder. Prompts of one's own stay as they are: no weights have any."""
    given = {re.sub(r"^model\.encoder\.", "clay_encoder.", name): value for name, value in state.items()}
    prompts = {name: value for name, value in network.state_dict().items() if "vpt_prompt_embeddings" in name}
    return {**prompts, **{name: value for name, value in given.items() if name.startswith("clay_encoder.")}}


def convert_scale_mae(state: Mapping[str, Tensor], own: State) -> RenamedState:
    """The encoder of ScaleMAE, whose learned positions nothing reads."""
    kept = {name: value for name, value in state.items() if name in own}
    return {**kept, "pos_embed": own["pos_embed"]}, "patch_embed.proj.weight", [b.value for b in BANDS_OF_SCALE_MAE]


def convert_swin(state: Mapping[str, Tensor], own: State) -> RenamedState:
    """A Swin as MMSegmentation writes it, with or without `backbone.`, or the encoder of the original one."""
    if any(name.startswith("encoder.") for name in state):
        encoder = {name.removeprefix("encoder."): value for name, value in state.items()}
        state = convert_weights_swin2mmseg({n: value for n, value in encoder.items() if not _IGNORED_KEYS.search(n)})
    named = {re.sub(r"^(backbone\.)?(stages\.)?", _format_stage_prefix, name): value for name, value in state.items()}
    # Which cells of a window are how far apart is worked out, and older files do not hold it.
    counted = {name: value for name, value in own.items() if name.endswith("relative_position_index")}
    kept = {name: value for name, value in named.items() if not _IGNORED_KEYS.search(name)}
    return {**counted, **kept}, "patch_embed.projection.weight", [band.value for band in BANDS_OF_SWIN]


def _format_stage_prefix(found: re.Match[str]) -> str:
    return "stages_" if found[2] else ""


_STEMS = {"resnet_model": "conv1", "swin_model": "features.0.0", "vit_model": "patch_embed.proj"}
"""The first layer of torchgeo's networks, by the name that TerraTorch's wrapper has for the network."""


_CLASSIFIERS = ("fc.", "head.", "fc_norm.")


def convert_state_dict(state: Mapping[str, Tensor], network: Any, part: TerraTorch, published: Any) -> State:
    """The state of `network` that `state` makes: every weight that it has, but for what it cannot have.

    That is a classifier's, which no feature is of, and those of bands and modalities that the weights are not of:
    these stay as they are. Raises ValueError where bands cannot be told apart; what is then missing, unexpected or of
    another shape is for torch to refuse.
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
        return convert_clay(state, network)
    if isinstance(network, ScaleMAE) or part.name in SWIN:
        own = network.state_dict()
        renamed, stem, known = (convert_swin if part.name in SWIN else convert_scale_mae)(state, own)
        return {**renamed, stem: _select_stem_bands(renamed, stem, own[stem], part, known)}
    inner = next((name for name in _STEMS if hasattr(network, name)), None)
    return dict(state) if inner is None else _convert_torchgeo(state, network, inner, part, published)


def _convert_prithvi(state: Mapping[str, Tensor], network: Any, part: TerraTorch) -> State:
    own = network.state_dict()["patch_embed.proj.weight"]
    given = next((value for name, value in state.items() if name.endswith("patch_embed.proj.weight")), None)
    if given is None:
        raise ValueError("there is no first layer patch_embed.proj in it")
    _check_stem_shape(given, own)
    names = [band.value for band in PRETRAINED_BANDS]
    bands = [
        HLSBands.try_convert_to_hls_bands_enum(name) for name in _resolve_bands(part, names, own, _list_band_names())
    ]
    select = checkpoint_filter_fn_vit_adapter if isinstance(network, PrithviViTAdapter) else checkpoint_filter_fn_vit
    with guard_import():
        found: State = select(dict(state), network, PRETRAINED_BANDS, bands)
    return found


def _convert_terramind(state: Mapping[str, Tensor], network: Any, part: TerraTorch) -> State:
    state = {**state, **_select_terramind_bands(state, network, part)}
    fresh = [f"encoder_embeddings.{key}." for name, key in network.mod_name_mapping.items() if name not in MODALITIES]

    def is_own_weight(name: str, value: Tensor) -> bool:
        # Positions are worked out for the size that the network is made for.
        resized = name.endswith(".pos_emb") and name in state and state[name].shape != value.shape
        return resized or name.startswith((*fresh, "missing_mod_token"))

    return _merge_state(state, network.state_dict(), is_own_weight)


def _select_terramind_bands(state: Mapping[str, Tensor], network: Any, part: TerraTorch) -> State:
    """The first layers of the modalities whose bands are named, of weights of all their bands."""
    mixed = {}
    own = network.state_dict()
    known_anywhere = _list_band_names() | {band for known in BANDS_OF_TERRAMIND.values() for band in known}
    modalities = [name for name in network.mod_name_mapping if _get_stem_name(network, name) in own]
    for name, bands in part.get_modality_bands(modalities).items():
        layer = _get_stem_name(network, name)
        known = BANDS_OF_TERRAMIND.get(network.mod_name_mapping[name], [])
        if layer not in state or len(known) * own[layer].shape[1] != len(bands) * state[layer].shape[1]:
            continue  # the weights are of other bands: torch refuses those of another shape
        _check_bands(bands, known, known_anywhere)
        # A row holds the bands of each pixel of a patch, pixel by pixel.
        given = state[layer].view(state[layer].shape[0], -1, len(known))
        new = own[layer].clone().view(own[layer].shape[0], -1, len(bands))
        for position, band in enumerate(bands):
            if band in known:
                new[..., position] = given[..., known.index(band)]
        mixed[layer] = new.flatten(1)
    return mixed


def _get_stem_name(network: Any, modality: str) -> str:
    return f"encoder_embeddings.{network.mod_name_mapping[modality]}.proj.weight"


def _convert_dofa(state: Mapping[str, Tensor], network: Any, part: TerraTorch) -> State:
    inner = network.dofa_model
    positions, own = state.get("pos_embed"), inner.pos_embed
    if positions is not None and positions.shape != own.shape and positions.shape[-1] == own.shape[-1]:
        before, after = (int((count - 1) ** 0.5) for count in (positions.shape[1], own.shape[1]))
        mode = dict(part.options).get("pos_interpolation_mode", "bilinear")
        state = {**state, "pos_embed": resize_pos_embed(positions, (after, after), (before, before), mode)}
    return _prefix_state("dofa_model", state, network)


def _select_stem_bands(
    state: Mapping[str, Tensor], stem: str, own: Tensor, part: TerraTorch, known: Sequence[str]
) -> Tensor:
    """The first layer of weights of the bands `known`, with the channels of the image in the place of those."""
    if stem not in state:
        raise ValueError(f"there is no first layer {stem.removesuffix('.weight')} in it")
    _check_stem_shape(state[stem], own)
    mixed = own.clone()
    for position, band in enumerate(_resolve_bands(part, known, own, _list_band_names())):
        if band in known:
            mixed[:, position] = state[stem][:, known.index(band)]
    return mixed


def _convert_torchgeo(state: Mapping[str, Tensor], network: Any, inner: str, part: TerraTorch, published: Any) -> State:
    stem = f"{_STEMS[inner]}.weight"
    own = network.state_dict()[f"{inner}.{stem}"]
    if stem not in state:
        raise ValueError(f"there is no first layer {_STEMS[inner]} in it")
    _check_stem_shape(state[stem], own)
    names = list(published.meta.get("bands") or ())
    if part.channel_bands is None and (not names or len(names) == own.shape[1]):
        return _prefix_state(inner, state, network)
    if part.channel_bands is not None and not names:
        raise ValueError("these weights do not tell their bands: leave bands out")
    # TerraTorch reads Landsat's numbers as Sentinel-2's, so that its blue would be taken for green.
    known = names if "landsat" in part.name else [look_up_table.get(name, name) for name in names]
    spelled = dict(zip(names, known, strict=True))
    asked = None if part.channel_bands is None else [spelled.get(name, name) for name in part.channel_bands]
    bands = _resolve_bands(
        part, known, own, {*known, *_list_band_names()} if "landsat" not in part.name else known, asked
    )
    mixed = own.clone()
    for position, band in enumerate(bands):
        if band in known:
            mixed[:, position] = state[stem][:, known.index(band)]
    return _prefix_state(inner, {**state, stem: mixed}, network)


def _resolve_bands(
    part: TerraTorch,
    known: Sequence[str],
    own: Tensor,
    named: Sequence[str] | set[str],
    asked: Sequence[str] | None = None,
) -> Sequence[str]:
    """The bands of the channels; the weights' own where none are named and there are as many."""
    bands = part.channel_bands if asked is None else asked
    if bands is None:
        if own.shape[1] != len(known):
            listed = ", ".join(known)
            raise ValueError(f"the weights are of {len(known)} bands, {listed}: name those of the image as bands")
        return known
    _check_bands(bands, known, named)
    return bands


def _check_bands(bands: Sequence[str], known: Sequence[str], named: Sequence[str] | set[str]) -> None:
    """Raise ValueError for a band that nothing is known of, and where the weights are of none of the bands."""
    for band in bands:
        if band not in named:
            raise ValueError(f"there is no band {band!r}: {suggest(band, named)}")
    if not set(bands) & set(known):
        raise ValueError(f"the weights are of none of these bands, but of {', '.join(known)}")


def _prefix_state(inner: str, state: Mapping[str, Tensor], network: Any) -> State:
    """A state of a wrapper's inner network, with its classifier as it is."""
    kept = {f"{inner}.{name}": value for name, value in state.items() if not name.startswith(_CLASSIFIERS)}
    heads = tuple(f"{inner}.{name}" for name in _CLASSIFIERS)
    own = network.state_dict()
    return {**{name: value for name, value in own.items() if name.startswith(heads)}, **kept}


def _merge_state(state: Mapping[str, Tensor], own: State, its_own: Callable[[str, Tensor], bool]) -> State:
    """The weights of `own` that `state` has, and those that are the network's own."""
    kept = {name: value for name, value in own.items() if its_own(name, value)}
    return {**{name: value for name, value in state.items() if name in own}, **kept}


def _check_stem_shape(given: Tensor, own: Tensor) -> None:
    """Raise where a first layer is another one, channels aside: TerraTorch then goes on with a random one."""
    if [*given.shape[:1], *given.shape[2:]] != [*own.shape[:1], *own.shape[2:]]:
        raise ValueError(f"its first layer is of shape {list(given.shape)}, and the network's of {list(own.shape)}")


def _list_band_names() -> set[str]:
    return {band.value for band in HLSBands} | set(look_up_table.values())


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
    """The backbone with random weights, or with others where the part asks and `pretrained` allows."""
    told = part.copy_with_inputs(*image)
    channels: Channels = tuple((name, one[0].channels) for name, one in named.items()) or image[0].channels
    weighted = pretrained and part.pretrained
    if weighted and part.name.endswith("_tim"):
        backbone = wrap_backbone(told, _create_with_tokenizers(told, channels), channels)
        backbone.loaded_weights = LoadedWeights()
        return backbone.train()
    try:
        with CPULinspace() if get_default_device() == "meta" else nullcontext():
            network = create_terratorch_backbone(told, channels)
    except (RejectionError, MemoryError):
        raise
    except Exception as error:  # whatever TerraTorch raises for its arguments
        raise RejectionError(reject_terratorch_arguments(told, error)) from error
    backbone = wrap_backbone(told, network, channels)
    if weighted:
        try:
            backbone.loaded_weights = _load_terratorch_weights(part, network)
        except MemoryError:
            raise
        except Exception as error:
            raise RejectionError(reject_terratorch_weights(part, error)) from error
    return backbone.train()


def _load_terratorch_weights(part: TerraTorch, network: nn.Module) -> LoadedWeights:
    """Fill the network with its weights. Raises where they cannot be had, or do not fill it."""
    source = get_weights_file(part.pretrained)
    file, prefix = source or ("", None)
    state = read_file_weights(Path(file)) if source else _fetch_published_state(part)
    published = _get_published_weights(part)

    def convert(given: dict[str, Tensor]) -> TensorState:
        return convert_state_dict(given, network, part, published)

    wanted = network.state_dict(keep_vars=True)
    found = match(state, wanted, convert, prefix=prefix)
    found.fill(wanted)
    return found.report(file) if source else LoadedWeights()


def _create_with_tokenizers(part: TerraTorch, channels: Channels) -> Any:
    """TerraMind that thinks in modalities, with weights: TerraTorch makes it whole or not at all, tokenizers too."""
    try:
        if part.pretrained is not True:
            raise ValueError("its weights are of several files, which TerraTorch downloads by itself")
        check_reachable(*_get_hub_file(part))
        return create_terratorch_backbone(part, channels, pretrained=True)
    except (RejectionError, MemoryError):
        raise
    except Exception as error:
        raise RejectionError(reject_terratorch_weights(part, error)) from error


def _fetch_published_state(part: TerraTorch) -> dict[str, Tensor]:
    """The tensors that TerraTorch names for a part. Raises where they cannot be had; only tensors are unpickled."""
    if part.name in _PUBLISHED_FILES:
        return read_file_weights(fetch_file(*_get_hub_file(part)))
    published = _get_published_weights(part)
    if published is None:
        raise FileNotFoundError("TerraTorch names none for this backbone")
    kept = Path(torch.hub.get_dir()) / "checkpoints" / published.url.rpartition("/")[2]
    found = _HUB_URL.fullmatch(published.url)
    if found and not kept.is_file():
        check_reachable(f"{found[1]}@{found[2]}", found[3])
    return dict(published.get_state_dict(progress=False, weights_only=True))


def _get_published_weights(part: TerraTorch) -> Any:
    """torchgeo's weights for a name, as the default of its constructor says; None of any other."""
    if part.name in UNREGISTERED:
        return None
    parameters = inspect.signature(TERRATORCH_BACKBONE_REGISTRY[part.name]).parameters
    return parameters["weights"].default if "weights" in parameters else None


def _get_hub_file(part: TerraTorch) -> tuple[str, str]:
    """The repository and the file of weights that TerraTorch names itself."""
    at = _PUBLISHED_FILES[part.name.removesuffix("_tim")]
    return at["hf_hub_id"], at["hf_hub_filename"]
