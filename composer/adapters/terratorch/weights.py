"""The backbones of TerraTorch with weights: random ones, those that TerraTorch names, or those of a file."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from terratorch.models.backbones.clay_v1.embedder import default_cfgs as of_timm
from terratorch.models.backbones.prithvi_vit import pretrained_weights as of_prithvi
from terratorch.models.backbones.terramind.model.terramind_register import pretrained_weights as of_terramind
from terratorch.models.backbones.terramind.tokenizer.tokenizer_backbones_register import (
    pretrained_weights as of_tokenizers,
)
from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY
from torch import Tensor, nn

from composer.adapters.archives import read_file_weights
from composer.adapters.huggingface import check_reachable, fetch_file
from composer.adapters.rates import CPULinspace
from composer.adapters.terratorch.fitting_weights import convert_state_dict
from composer.adapters.terratorch.networks import create_terratorch_backbone, wrap_backbone
from composer.adapters.terratorch.refusals import reject_terratorch_arguments, reject_terratorch_weights
from composer.contracts.rules import RejectionError
from composer.feature import Features
from composer.loaded import LoadedWeights
from composer.modules.devices import get_default_device
from composer.modules.dispatch import module
from composer.parts import Channels, EncoderInfo, TerraTorch
from composer.parts.terratorch_names import CLAY, UNREGISTERED
from composer.parts.weights import get_weights_file
from composer.tensors.matching import TensorState, match

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
