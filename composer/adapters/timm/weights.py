"""timm's networks with weights: random ones, published ones, or those of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from attrs import evolve
from torch import nn

from composer.adapters.archives import check_archive
from composer.adapters.huggingface import check_reachable
from composer.adapters.timm.levels import levels
from composer.adapters.timm.networks import create
from composer.adapters.timm.refusals import no_weights
from composer.contracts.rules import Refused
from composer.feature import Features
from composer.modules.devices import current
from composer.modules.dispatch import module
from composer.modules.timm_encoder import TimmEncoder
from composer.parts import Facts, Timm


@module.register(Timm)
def _(part: Timm, image: Features, *, facts: Facts, pretrained: bool = True) -> nn.Module:
    """The network with random weights, or with the published ones where the part asks and `pretrained` allows."""
    channels = image[0].channels
    arguments = dict(facts.arguments)
    # Facts that were handed in need not say which levels they are of.
    indices = arguments.pop("out_indices", None) or _levels_of(part, channels)
    if not (pretrained and part.pretrained):
        network = create(part, channels, current(), **arguments, **_without_classifier(part))
    else:
        try:
            network = _with_weights(part, channels, arguments)
        except (Refused, MemoryError):
            raise
        except Exception as error:
            raise Refused(no_weights(part, error)) from error
    return network if part.features_only else TimmEncoder(network, indices, tokens=part.tokens, norm=part.norm)


def _without_classifier(part: Timm) -> dict[str, int]:
    """A classifier would be drawn at random and pruned again; published weights must be those of the whole network.

    Without it all 1,371 networks of timm 1.0.31 have the same parameters and buffers left.
    """
    return {} if part.features_only or "num_classes" in dict(part.options) else {"num_classes": 0}


def _levels_of(part: Timm, channels: int) -> tuple[int, ...]:
    return levels(part, create(part, channels, "meta"), channels, "meta")


def _with_weights(part: Timm, channels: int, arguments: dict[str, Any]) -> Any:
    """The network with its weights. Raises where they cannot be had, or are not those of the whole network."""
    _check_weights(part)
    arguments = {**arguments, "pretrained": True}
    if isinstance(part.pretrained, str):
        arguments["pretrained_cfg_overlay"] = {"file": part.pretrained}
    if part.features_only:
        # timm's wrapper takes what there is, and leaves the rest random without a word; the plain network raises.
        create(evolve(part, features_only=False), channels, current(), **arguments)
    return create(part, channels, current(), **arguments)


def _check_weights(part: Timm) -> None:
    """Raise at once where the weights cannot be had, and not after timm and the hub have tried again and again."""
    if isinstance(part.pretrained, str):
        if not Path(part.pretrained).is_file():
            raise FileNotFoundError("there is no such file")
        check_archive(Path(part.pretrained))
        return
    published = timm.get_pretrained_cfg(part.name)
    if published is not None and published.hf_hub_id:
        check_reachable(published.hf_hub_id, published.hf_hub_filename)
