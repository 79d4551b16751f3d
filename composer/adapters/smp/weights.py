"""smp's encoders with weights: random ones, a published set, or those of a file."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from segmentation_models_pytorch.encoders import encoders
from torch import nn

from composer.adapters.archives import weights_in
from composer.adapters.huggingface import check_reachable
from composer.adapters.rates import RatesOnCPU
from composer.adapters.smp.encoders import SmpLevels, adapted, created, levels
from composer.contracts.rules import Refusal, Refused
from composer.feature import Features
from composer.modules.devices import current
from composer.modules.dispatch import module
from composer.parts import Facts, SmpEncoder


@module.register(SmpEncoder)
def _(part: SmpEncoder, image: Features, *, facts: Facts, pretrained: bool = True) -> nn.Module:
    """The encoder with random weights, or with published ones where the part asks and `pretrained` allows."""
    channels = image[0].channels
    if pretrained and part.pretrained:
        try:
            network = _with_weights(part, channels)
        except (Refused, MemoryError):
            raise
        except Exception as error:
            raise Refused(_no_weights(part, error)) from error
    else:
        network = _unweighted(part, channels)
    # Facts that were handed in need not say which levels they are of.
    return SmpLevels(network, dict(facts.arguments).get("levels") or levels(part, network))


def _unweighted(part: SmpEncoder, channels: int) -> Any:
    """The network with random weights, also on the meta device, where smp makes a new first layer on the CPU."""
    with RatesOnCPU() if current() == "meta" else nullcontext():
        network = created(part)
    return adapted(network, part, channels, weighted=False).to(current())


def sets(name: str) -> Mapping[str, Mapping[str, str]]:
    """The sets of weights that smp publishes for an encoder, the one its models take by default first."""
    published = encoders[name]["pretrained_settings"]
    return dict(sorted(published.items(), key=lambda item: item[0] != "imagenet"))


def _with_weights(part: SmpEncoder, channels: int) -> Any:
    """The network with its weights. Raises where they cannot be had, or are not those of the whole network."""
    published = sets(part.name)
    name = next(iter(published)) if part.pretrained is True else str(part.pretrained)
    if name not in published:
        return _from_file(part, Path(name), channels)
    at = published[name]
    check_reachable(f"{at['repo_id']}@{at['revision']}", "model.safetensors")
    return adapted(created(part, name), part, channels, weighted=True)


def _from_file(part: SmpEncoder, path: Path, channels: int) -> Any:
    """The network with the weights of a file: those of three channels, which smp adapts, or of as many as there are."""
    if not path.is_file():
        raise FileNotFoundError("there is no such file, and no set of weights of this name")
    state = weights_in(path)
    network = created(part)
    # A copy, because smp's encoders take out of it what a classifier would have.
    if channels == 3 or _fits(network, state):
        network.load_state_dict(dict(state))
        return adapted(network, part, channels, weighted=True)
    network = adapted(network, part, channels, weighted=False)
    network.load_state_dict(dict(state))
    return network


def _fits(network: nn.Module, state: Mapping[str, torch.Tensor]) -> bool:
    """Whether no weight has another shape than the network's own: the first layer is made for as many channels."""
    own = network.state_dict()
    return all(value.shape == own[name].shape for name, value in state.items() if name in own)


def _no_weights(part: SmpEncoder, error: Exception) -> Refusal:
    known = ", ".join(sets(part.name))
    published = part.pretrained is True or part.pretrained in sets(part.name)
    named = "that smp publishes for it" if part.pretrained is True else part.pretrained
    return Refusal(
        code="weights",
        kind="impossible",
        expected=f"cannot load the weights {named}",
        got=f"{type(error).__name__}: {' '.join(str(error).split())[:300] or 'no reason given'}",
        repair="check the connection, give the path of a weights file, or set pretrained: false"
        if published
        else f"give the path of a weights file that fits this encoder, or one of {known}",
        about="pretrained",
    )
