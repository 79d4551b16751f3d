"""The backbones of transformers as modules, with random weights or those of a checkpoint. B batch, C channels."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_BACKBONE_MAPPING

from composer.adapters.archives import read_file_weights
from composer.adapters.huggingface import check_reachable
from composer.adapters.rates import CPULinspace
from composer.adapters.transformers.checkpoints import read_folder_weights
from composer.adapters.transformers.configs import build_config, get_checkpoint_source
from composer.adapters.transformers.refusals import reject_transformers_weights
from composer.contracts.rules import RejectionError
from composer.feature import Features, format_count
from composer.loaded import LoadedWeights, list_names
from composer.modules.devices import use_default_device
from composer.modules.dispatch import module
from composer.modules.growth import limit_modules
from composer.modules.own_names import TransparentWrapper, get_shared_module_state
from composer.parts import EncoderInfo, Transformers
from composer.parts.weights import get_weights_file
from composer.quiet import guard_import
from composer.tensors.matching import Match, MismatchError, TensorState, match

ADDED_NORMS = "hidden_states_norms."
"""The norms behind each stage, which a classifier has not: its checkpoints lack them, and they begin as they are."""

HOOKS_MODULE = "transformers.utils.output_capturing"
"""Whose hooks collect the hidden states. A network without them gets them when it next runs."""


class TransformersBackbone(TransparentWrapper):
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
                if getattr(hook, "__module__", None) == HOOKS_MODULE:
                    del part._forward_hooks[number]
            vars(part).pop("_output_capturing_hooks_installed", None)
        return {**vars(self), **get_shared_module_state(network)}


def create_transformers_backbone(config: Any) -> Any:
    """The network of a config, with random weights.

    Raises what transformers raises where it cannot be made, and Refused for one too deep.
    """
    with guard_import(), limit_modules():
        return MODEL_FOR_BACKBONE_MAPPING[type(config)]._from_config(config)


@module.register(Transformers)
def _(part: Transformers, image: Features, *, facts: EncoderInfo, pretrained: bool = True) -> nn.Module:  # noqa: ARG001
    """The network with random weights, or with a checkpoint's where the part asks and `pretrained` allows."""
    config = build_config(part, image[0].channels)
    if not (pretrained and part.pretrained):
        return TransformersBackbone(create_transformers_backbone(config))
    try:
        network, loaded = _create_pretrained_transformers(part, config)
    except (RejectionError, MemoryError):
        raise
    except Exception as error:
        raise RejectionError(reject_transformers_weights(part, error)) from error
    backbone = TransformersBackbone(network.train())
    backbone.loaded_weights = loaded
    return backbone


def _create_pretrained_transformers(part: Transformers, config: Any) -> tuple[Any, LoadedWeights]:
    """The network with its weights. Raises where they cannot be had, or do not fill the network."""
    source = get_weights_file(part.pretrained)
    if source is not None:
        file, prefix = source
        network, found = _load_transformers_state(config, read_file_weights(Path(file)), prefix)
        return network, found.report(file)
    if part.folder is not None:
        network, found = _load_transformers_state(config, read_folder_weights(part.folder), None)
        return network, found.report(str(part.folder))
    name, revision = get_checkpoint_source(part)
    if "/" not in name:
        raise FileNotFoundError("an architecture has no weights")
    check_reachable(part.name)
    network, told = _create_from_pretrained(config, name, revision=revision or "main")
    missing = sorted(key for key in told["missing_keys"] if not _is_added_norm(key))
    if missing:
        raise MismatchError(f"a checkpoint that lacks {format_count(len(missing), 'tensor')}: {list_names(missing)}")
    return network, LoadedWeights()


def _is_added_norm(name: str) -> bool:
    return name.startswith(ADDED_NORMS)


def _create_from_pretrained(config: Any, name: str | None, **arguments: Any) -> tuple[Any, Mapping[str, Any]]:
    """The network as transformers loads it, and what it says of the tensors."""
    with guard_import(), limit_modules():
        network, told = MODEL_FOR_BACKBONE_MAPPING[type(config)].from_pretrained(
            name, config=config, output_loading_info=True, **arguments
        )
    return network, told


def _load_transformers_state(config: Any, state: TensorState, prefix: str | None) -> tuple[Any, Match]:
    """The network with the tensors of a checkpoint. Raises MismatchError where they do not fill it.

    With the tensors in hand transformers asks for no name, and looks at no file of a folder.
    """
    made: list[Any] = []

    def convert(given: dict[str, Tensor]) -> TensorState:
        network, told = _create_from_pretrained(config, None, state_dict=given, ignore_mismatched_sizes=True)
        made.append(network)
        unlike = {name: torch.empty(shape, device="meta") for name, shape, _ in told["mismatched_keys"]}
        left = {name: torch.empty(0) for name in told["unexpected_keys"]}
        own = network.state_dict(keep_vars=True)
        loaded = {name: tensor for name, tensor in own.items() if name not in told["missing_keys"]}
        return {**left, **loaded, **unlike}

    with use_default_device("meta"), CPULinspace():
        wanted = create_transformers_backbone(config).state_dict(keep_vars=True)
    found = match(state, wanted, convert, prefix=prefix, optional=_is_added_norm)
    name, tensor = next(iter(found.tensors.items()))
    return next(network for network in made if network.state_dict(keep_vars=True)[name] is tensor), found
