"""timm's networks with weights: random ones, published ones, or those of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from attrs import evolve
from timm.models import clean_state_dict
from torch import Tensor, nn

from composer.adapters.archives import weights_in
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

_UNDER = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state", "module")
"""Where a file may hold the state dict, if it is not one itself: in the order in which timm looks."""


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
    if not isinstance(part.pretrained, str):
        _check_published(part)
    if part.features_only:
        # timm's wrapper takes what there is, and leaves the rest random without a word; the plain network raises.
        _loaded(evolve(part, features_only=False), channels, arguments)
    return _loaded(part, channels, arguments)


def _loaded(part: Timm, channels: int, arguments: dict[str, Any]) -> Any:
    """The network as timm loads it. A file is read for each anew: what some of timm's conversions read they change."""
    overlay = {"pretrained_cfg_overlay": _of_file(Path(part.pretrained))} if isinstance(part.pretrained, str) else {}
    return _forgetful(create(part, channels, current(), **{**arguments, "pretrained": True, **overlay}))


class _Uncopied(Tensor):
    """A tensor of a file. timm copies what it knows of the weights, tensors and all, before and after it loads them.

    Nobody else has these, so that they may be their own copies. What torch makes of them are tensors like any other.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __deepcopy__(self, memo: dict[int, Any]) -> _Uncopied:
        return self


def _of_file(path: Path) -> dict[str, Any]:
    """What timm is told of a file: its tensors, their names as timm cleans those of a file that it reads itself."""
    if not path.is_file():
        raise FileNotFoundError("there is no such file")
    state = clean_state_dict(weights_in(path, _UNDER))
    return {
        "state_dict": {name: tensor.as_subclass(_Uncopied) for name, tensor in state.items()},
        "custom_load": False,
    }


def _forgetful(network: Any) -> Any:
    """The network, without the tensors that timm keeps beside what it knows of where they came from."""
    for part in network.modules():
        for told in (getattr(part, "pretrained_cfg", None), getattr(part, "default_cfg", None)):
            if isinstance(told, dict):
                told.pop("state_dict", None)
    return network


def _check_published(part: Timm) -> None:
    """Raise at once where the weights cannot be had, and not after timm and the hub have tried again and again."""
    published = timm.get_pretrained_cfg(part.name)
    if published is not None and published.hf_hub_id:
        check_reachable(published.hf_hub_id, published.hf_hub_filename)
