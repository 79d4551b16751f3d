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

from composer.adapters.capturing import record_loaded_state
from composer.tensors.matching import TensorState

_TIMM_LOAD: Callable[..., None] = _builder.load_pretrained


@define
class PendingLoad:
    """A network of timm that is to be loaded: `load` is timm's own function for it.

    `network` is as timm made it, before anything is wrapped or pruned. It shares its tensors with the one that is
    kept, so that a tensor of that one is known here by the name that checkpoints use.
    """

    network: nn.Module
    load: Callable[..., None]
    config: Mapping[str, Any]

    def convert(self, state: dict[str, Tensor]) -> TensorState:
        """Convert a checkpoint as timm does: its filter for this network, and the first layer for other channels."""
        return self._record_state({**self.config, "source": "", "state_dict": state})

    def convert_published(self) -> TensorState:
        """Convert the weights that timm publishes."""
        return self._record_state(self.config)

    def _record_state(self, config: Mapping[str, Any]) -> TensorState:
        with record_loaded_state(self.network) as found, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # timm resamples with calls that torch advises against
            self.load(self.network, pretrained_cfg=config)
        if not found:
            raise ValueError("timm has a loader of its own for these weights, which composer cannot check")
        return found[0]

    def map_tensors(self, kept: nn.Module) -> dict[str, Tensor]:
        """The parameters and persistent buffers of the network that is kept, by the names of the whole one."""
        names = {id(tensor): name for name, tensor in self.network.state_dict(keep_vars=True).items()}
        return {names.get(id(tensor), name): tensor for name, tensor in kept.state_dict(keep_vars=True).items()}


_PENDING_LOADS: ContextVar[list[PendingLoad] | None] = ContextVar("_LOADINGS", default=None)


def _load_or_record(model: nn.Module, pretrained_cfg: Mapping[str, Any], **arguments: Any) -> None:
    noted = _PENDING_LOADS.get()
    if noted is None:
        _TIMM_LOAD(model, pretrained_cfg=pretrained_cfg, **arguments)
        return
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    noted.append(PendingLoad(deepcopy(model, tensors), partial(_TIMM_LOAD, **arguments), pretrained_cfg))


# timm finds the filter of a checkpoint where it makes a network, and hands it to this function alone.
_builder.load_pretrained = _load_or_record  # type: ignore[assignment]


@contextmanager
def collect_pending_loads() -> Iterator[list[PendingLoad]]:
    """Within it, timm makes networks and does not load them: what it would have loaded is put into the list."""
    noted: list[PendingLoad] = []
    token = _PENDING_LOADS.set(noted)
    try:
        yield noted
    finally:
        _PENDING_LOADS.reset(token)
