"""timm's loading of weights, in two steps: what timm makes of a checkpoint, and putting it into the network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from functools import partial
from typing import Any

from attrs import define
from timm.models import _builder
from torch import Tensor, nn

from composer.adapters.capturing import capture_state
from composer.tensors.matching import State

_LOAD: Callable[..., None] = _builder.load_pretrained


@define
class Loading:
    """A network of timm that is to be loaded: `load` is timm's own function for it.

    `network` is as timm made it, before anything is wrapped or pruned. It shares its tensors with the one that is
    kept, so that a tensor of that one is known here by the name that checkpoints use.
    """

    network: nn.Module
    load: Callable[..., None]
    config: Mapping[str, Any]

    def convert(self, state: dict[str, Tensor]) -> State:
        """Convert a checkpoint as timm does: its filter for this network, and the first layer for other channels."""
        return self._captured({**self.config, "source": "", "state_dict": state})

    def convert_published(self) -> State:
        """Convert the weights that timm publishes."""
        return self._captured(self.config)

    def _captured(self, config: Mapping[str, Any]) -> State:
        with capture_state(self.network) as found, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # timm resamples with calls that torch advises against
            self.load(self.network, pretrained_cfg=config)
        if not found:
            raise ValueError("timm has a loader of its own for these weights, which composer cannot check")
        return found[0]

    def tensors_of(self, kept: nn.Module) -> dict[str, Tensor]:
        """The parameters and persistent buffers of the network that is kept, by the names of the whole one."""
        names = {id(tensor): name for name, tensor in self.network.state_dict(keep_vars=True).items()}
        return {names.get(id(tensor), name): tensor for name, tensor in kept.state_dict(keep_vars=True).items()}


_LOADINGS: ContextVar[list[Loading] | None] = ContextVar("_LOADINGS", default=None)


def _load_or_note(model: nn.Module, pretrained_cfg: Mapping[str, Any], **arguments: Any) -> None:
    noted = _LOADINGS.get()
    if noted is None:
        _LOAD(model, pretrained_cfg=pretrained_cfg, **arguments)
        return
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    noted.append(Loading(deepcopy(model, tensors), partial(_LOAD, **arguments), pretrained_cfg))


# timm finds the filter of a checkpoint where it makes a network, and hands it to this function alone.
_builder.load_pretrained = _load_or_note  # type: ignore[assignment]


@contextmanager
def postpone_loading() -> Iterator[list[Loading]]:
    """Within it, timm makes networks and does not load them: what it would have loaded is put into the list."""
    noted: list[Loading] = []
    token = _LOADINGS.set(noted)
    try:
        yield noted
    finally:
        _LOADINGS.reset(token)
