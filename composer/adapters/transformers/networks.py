"""The backbones of transformers as modules, with random weights or those of a checkpoint. B batch, C channels."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from torch import Tensor, nn
from transformers import MODEL_FOR_BACKBONE_MAPPING

from composer.adapters.huggingface import check_reachable
from composer.adapters.transformers.checkpoints import weights_of
from composer.adapters.transformers.configs import config_of, source_of
from composer.adapters.transformers.refusals import no_weights
from composer.contracts.rules import Refused
from composer.feature import Features, counted
from composer.modules.dispatch import module
from composer.modules.growth import few_modules
from composer.modules.own_names import OwnNames, held
from composer.parts import Facts, Transformers
from composer.quiet import contained

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
        return TransformersBackbone(_with_weights(part, config).train())
    except (Refused, MemoryError):
        raise
    except Exception as error:
        raise Refused(no_weights(part, error)) from error


def _with_weights(part: Transformers, config: Any) -> Any:
    """The network with its weights. Raises where they cannot be had, or are not those of the whole network."""
    name, revision = source_of(part)
    if part.folder is None and "/" not in name:
        raise FileNotFoundError("an architecture has no weights")
    state = None if part.folder is None else weights_of(part.folder)
    if state is None:
        check_reachable(part.name)
    with contained(), few_modules():
        # With the tensors in hand transformers asks for no name, and looks at no file of the folder.
        network, told = MODEL_FOR_BACKBONE_MAPPING[type(config)].from_pretrained(
            name if state is None else None,
            config=config,
            revision=revision or "main",
            state_dict=state,
            output_loading_info=True,
        )
    missing = sorted(key for key in told["missing_keys"] if not key.startswith(ADDED))
    if missing:
        raise ValueError(f"the checkpoint lacks {counted(len(missing), 'weight')}, the first {missing[0]}")
    return network
