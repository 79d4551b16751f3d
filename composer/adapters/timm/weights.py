"""timm's networks with weights: random ones, published ones, or those of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from torch import nn

from composer.adapters.archives import weights_in
from composer.adapters.huggingface import check_reachable
from composer.adapters.timm.levels import levels
from composer.adapters.timm.loading import Loading, postpone_loading
from composer.adapters.timm.networks import create
from composer.adapters.timm.refusals import no_weights
from composer.contracts.rules import Refused
from composer.feature import Features
from composer.loaded import LoadedWeights
from composer.modules.devices import current
from composer.modules.dispatch import module
from composer.modules.timm_encoder import TimmEncoder
from composer.parts import Facts, Timm
from composer.parts.weights import get_weights_file
from composer.tensors.matching import State, match


@module.register(Timm)
def _(part: Timm, image: Features, *, facts: Facts, pretrained: bool = True) -> nn.Module:
    """The network with random weights, or with the published ones where the part asks and `pretrained` allows."""
    channels = image[0].channels
    arguments = {**_without_classifier(part), **dict(facts.arguments)}
    # Facts that were handed in need not say which levels they are of.
    indices = arguments.pop("out_indices", None) or _levels_of(part, channels)
    if not (pretrained and part.pretrained):
        return _encoder(part, create(part, channels, current(), **arguments), indices)
    try:
        source = get_weights_file(part.pretrained)
        state = None if source is None else weights_in(Path(source[0]))
        if state is None:
            _check_published(part)
        with postpone_loading() as loadings:
            network = create(part, channels, current(), pretrained=True, **arguments)
        (loading,) = loadings
        encoder = _encoder(part, network, indices)
        encoder.loaded_weights = _load(part, state, loading, encoder)  # type: ignore[assignment]
    except (Refused, MemoryError):
        raise
    except Exception as error:
        raise Refused(no_weights(part, error)) from error
    return encoder


def _encoder(part: Timm, network: Any, indices: tuple[int, ...]) -> nn.Module:
    return network if part.features_only else TimmEncoder(network, indices, tokens=part.tokens, norm=part.norm)


def _without_classifier(part: Timm) -> dict[str, int]:
    """A classifier would be drawn at random and pruned again.

    Without it all 1,371 networks of timm 1.0.31 have the same parameters and buffers left.
    """
    return {} if part.features_only or "num_classes" in dict(part.options) else {"num_classes": 0}


def _levels_of(part: Timm, channels: int) -> tuple[int, ...]:
    return levels(part, create(part, channels, "meta"), channels, "meta")


def _load(part: Timm, state: State | None, loading: Loading, encoder: nn.Module) -> LoadedWeights:
    """Fill the encoder with the tensors of a file, or with those that timm publishes. Raises where they do not."""
    wanted = loading.tensors_of(encoder)
    source = get_weights_file(part.pretrained)
    if state is not None and source is not None:
        file, prefix = source
        found = match(state, wanted, loading.convert, prefix=prefix)
        found.fill(wanted)
        return found.report(file)
    match(loading.convert_published(), wanted).fill(wanted)
    return LoadedWeights()


def _check_published(part: Timm) -> None:
    """Raise at once where the weights cannot be had, and not after timm and the hub have tried again and again."""
    published = timm.get_pretrained_cfg(part.name)
    if published is not None and published.hf_hub_id:
        check_reachable(published.hf_hub_id, published.hf_hub_filename)
