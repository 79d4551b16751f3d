"""The backbones of transformers as modules, with random weights or those of a checkpoint. B batch, C channels."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_BACKBONE_MAPPING

from composer.adapters.archives import weights_in
from composer.adapters.huggingface import check_reachable
from composer.adapters.rates import RatesOnCPU
from composer.adapters.transformers.checkpoints import weights_of
from composer.adapters.transformers.configs import config_of, source_of
from composer.adapters.transformers.refusals import no_weights
from composer.contracts.rules import Refused
from composer.feature import Features, counted
from composer.loaded import LoadedWeights, list_names
from composer.modules.devices import on
from composer.modules.dispatch import module
from composer.modules.growth import few_modules
from composer.modules.own_names import OwnNames, held
from composer.parts import Facts, Transformers
from composer.parts.weights import get_weights_file
from composer.quiet import contained
from composer.tensors.matching import Match, MismatchError, State, match

ADDED = "hidden_states_norms."
"""The norms behind each stage, which a classifier has not: its checkpoints lack them, and they begin as they are."""

HOOKS = "transformers.utils.output_capturing"
"""Whose hooks collect the hidden states. A network without them gets them when it next runs."""


class TransformersBackbone(OwnNames):
    """A backbone of transformers. Its weights have transformers' own names."""

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        """Each stage that was asked for, as a map `(b, c, h, w)` or as tokens `(b, prefix + h * w, c)`."""
        return tuple(self.network(image_BCHW).feature_maps)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of: without the hooks that a network gets when it first runs, which no pickle takes."""
        weights = {id(x): x for x in (*self.network.parameters(), *self.network.buffers())}
        network = deepcopy(self.network, weights)
        for part in network.modules():
            for number, hook in tuple(part._forward_hooks.items()):
                if getattr(hook, "__module__", None) == HOOKS:
                    del part._forward_hooks[number]
            vars(part).pop("_output_capturing_hooks_installed", None)
        return {**vars(self), **held(network)}


def created(config: Any) -> Any:
    """The network of a config, with random weights.

    Raises what transformers raises where it cannot be made, and Refused for one too deep.
    """
    with contained(), few_modules():
        return MODEL_FOR_BACKBONE_MAPPING[type(config)]._from_config(config)


@module.register(Transformers)
def _(part: Transformers, image: Features, *, facts: Facts, pretrained: bool = True) -> nn.Module:  # noqa: ARG001
    """The network with random weights, or with a checkpoint's where the part asks and `pretrained` allows."""
    config = config_of(part, image[0].channels)
    if not (pretrained and part.pretrained):
        return TransformersBackbone(created(config))
    try:
        network, loaded = _with_weights(part, config)
    except (Refused, MemoryError):
        raise
    except Exception as error:
        raise Refused(no_weights(part, error)) from error
    backbone = TransformersBackbone(network.train())
    backbone.loaded_weights = loaded
    return backbone


def _with_weights(part: Transformers, config: Any) -> tuple[Any, LoadedWeights]:
    """The network with its weights. Raises where they cannot be had, or do not fill the network."""
    source = get_weights_file(part.pretrained)
    if source is not None:
        file, prefix = source
        network, found = _filled(config, weights_in(Path(file)), prefix)
        return network, found.report(file)
    if part.folder is not None:
        network, found = _filled(config, weights_of(part.folder), None)
        return network, found.report(str(part.folder))
    name, revision = source_of(part)
    if "/" not in name:
        raise FileNotFoundError("an architecture has no weights")
    check_reachable(part.name)
    network, told = _from_pretrained(config, name, revision=revision or "main")
    missing = sorted(key for key in told["missing_keys"] if not _is_added(key))
    if missing:
        raise MismatchError(f"a checkpoint that lacks {counted(len(missing), 'tensor')}: {list_names(missing)}")
    return network, LoadedWeights()


def _is_added(name: str) -> bool:
    return name.startswith(ADDED)


def _from_pretrained(config: Any, name: str | None, **arguments: Any) -> tuple[Any, Mapping[str, Any]]:
    """The network as transformers loads it, and what it says of the tensors."""
    with contained(), few_modules():
        network, told = MODEL_FOR_BACKBONE_MAPPING[type(config)].from_pretrained(
            name, config=config, output_loading_info=True, **arguments
        )
    return network, told


def _filled(config: Any, state: State, prefix: str | None) -> tuple[Any, Match]:
    """The network with the tensors of a checkpoint. Raises MismatchError where they do not fill it.

    With the tensors in hand transformers asks for no name, and looks at no file of a folder.
    """
    made: list[Any] = []

    def convert(given: dict[str, Tensor]) -> State:
        network, told = _from_pretrained(config, None, state_dict=given, ignore_mismatched_sizes=True)
        made.append(network)
        unlike = {name: torch.empty(shape, device="meta") for name, shape, _ in told["mismatched_keys"]}
        left = {name: torch.empty(0) for name in told["unexpected_keys"]}
        own = network.state_dict(keep_vars=True)
        loaded = {name: tensor for name, tensor in own.items() if name not in told["missing_keys"]}
        return {**left, **loaded, **unlike}

    with on("meta"), RatesOnCPU():
        wanted = created(config).state_dict(keep_vars=True)
    found = match(state, wanted, convert, prefix=prefix, optional=_is_added)
    name, tensor = next(iter(found.tensors.items()))
    return next(network for network in made if network.state_dict(keep_vars=True)[name] is tensor), found
