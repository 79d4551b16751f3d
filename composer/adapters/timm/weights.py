"""timm's networks with weights: random ones, published ones, or those of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from torch import nn

from composer.adapters.archives import read_file_weights
from composer.adapters.huggingface import check_reachable
from composer.adapters.timm.levels import resolve_timm_levels
from composer.adapters.timm.loading import PendingLoad, collect_pending_loads
from composer.adapters.timm.networks import create_timm_network
from composer.adapters.timm.refusals import reject_timm_weights
from composer.contracts.rules import RejectionError
from composer.feature import Features
from composer.loaded import LoadedWeights
from composer.modules.devices import get_default_device
from composer.modules.dispatch import module
from composer.modules.timm_encoder import TimmEncoder
from composer.parts import EncoderInfo, Timm
from composer.parts.weights import get_weights_file
from composer.tensors.matching import TensorState, match


@module.register(Timm)
def _(part: Timm, image: Features, *, facts: EncoderInfo, pretrained: bool = True) -> nn.Module:
    """The network with random weights, or with the published ones where the part asks and `pretrained` allows."""
    channels = image[0].channels
    arguments = {**_drop_classifier(part), **dict(facts.arguments)}
    # Facts that were handed in need not say which levels they are of.
    indices = arguments.pop("out_indices", None) or _find_timm_levels(part, channels)
    if not (pretrained and part.pretrained):
        return _wrap_network(part, create_timm_network(part, channels, get_default_device(), **arguments), indices)
    try:
        source = get_weights_file(part.pretrained)
        state = None if source is None else read_file_weights(Path(source[0]))
        if state is None:
            _check_published_reachable(part)
        with collect_pending_loads() as loadings:
            network = create_timm_network(part, channels, get_default_device(), pretrained=True, **arguments)
        (loading,) = loadings
        encoder = _wrap_network(part, network, indices)
        encoder.loaded_weights = _load_timm_weights(part, state, loading, encoder)  # type: ignore[assignment]
    except (RejectionError, MemoryError):
        raise
    except Exception as error:
        raise RejectionError(reject_timm_weights(part, error)) from error
    return encoder


def _wrap_network(part: Timm, network: Any, indices: tuple[int, ...]) -> nn.Module:
    return network if part.features_only else TimmEncoder(network, indices, tokens=part.tokens, norm=part.norm)


def _drop_classifier(part: Timm) -> dict[str, int]:
    """A classifier would be drawn at random and pruned again.

    Without it all 1,371 networks of timm 1.0.31 have the same parameters and buffers left.
    """
    return {} if part.features_only or "num_classes" in dict(part.options) else {"num_classes": 0}


def _find_timm_levels(part: Timm, channels: int) -> tuple[int, ...]:
    return resolve_timm_levels(part, create_timm_network(part, channels, "meta"), channels, "meta")


def _load_timm_weights(
    part: Timm, state: TensorState | None, loading: PendingLoad, encoder: nn.Module
) -> LoadedWeights:
    """Fill the encoder with the tensors of a file, or with those that timm publishes. Raises where they do not."""
    wanted = loading.map_tensors(encoder)
    source = get_weights_file(part.pretrained)
    if state is not None and source is not None:
        file, prefix = source
        found = match(state, wanted, loading.convert, prefix=prefix)
        found.fill(wanted)
        return found.report(file)
    match(loading.convert_published(), wanted).fill(wanted)
    return LoadedWeights()


def _check_published_reachable(part: Timm) -> None:
    """Raise at once where the weights cannot be had, and not after timm and the hub have tried again and again."""
    published = timm.get_pretrained_cfg(part.name)
    if published is not None and published.hf_hub_id:
        check_reachable(published.hf_hub_id, published.hf_hub_filename)
