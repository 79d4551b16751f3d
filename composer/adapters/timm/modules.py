"""Modules of timm's encoders, with random, published or a file's weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import timm
from attrs import define
from timm.models import _builder
from torch import Tensor, nn

from composer.adapters.rejections import convert_errors
from composer.adapters.timm.networks import create_timm_network, resolve_timm_levels
from composer.adapters.timm.networks import list_networks as list_networks
from composer.adapters.timm.networks import probe as probe
from composer.adapters.weights import check_reachable, read_file_weights, record_loaded_state, reject_pretrained
from composer.layouts import Features
from composer.modules.base import get_default_device, module
from composer.modules.encoders import TimmEncoder
from composer.parts import EncoderInfo, Timm
from composer.parts.encoders import get_weights_file
from composer.tensors.matching import LoadedWeights, TensorState, match

_TIMM_LOAD: Callable[..., None] = _builder.load_pretrained


@define
class PendingLoad:
    """A network of timm whose weights are not loaded yet: `load` is timm's own function for that.

    `network` is as timm made it, before it is wrapped or pruned. It shares its tensors with the network that is kept,
    and has them under the names that checkpoints use.
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
        with record_loaded_state(self.network) as states, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # timm resamples with calls that torch advises against
            self.load(self.network, pretrained_cfg=config)
        if not states:
            raise ValueError("timm has a loader of its own for these weights, which composer cannot check")
        return states[0]

    def map_tensors(self, kept: nn.Module) -> dict[str, Tensor]:
        """Return the parameters and persistent buffers of the kept network, by the names of the whole network."""
        names = {id(tensor): name for name, tensor in self.network.state_dict(keep_vars=True).items()}
        return {names.get(id(tensor), name): tensor for name, tensor in kept.state_dict(keep_vars=True).items()}


_PENDING_LOADS: ContextVar[list[PendingLoad] | None] = ContextVar("_PENDING_LOADS", default=None)


def _load_or_record(model: nn.Module, pretrained_cfg: Mapping[str, Any], **arguments: Any) -> None:
    pending = _PENDING_LOADS.get()
    if pending is None:
        _TIMM_LOAD(model, pretrained_cfg=pretrained_cfg, **arguments)
        return
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    pending.append(PendingLoad(deepcopy(model, tensors), partial(_TIMM_LOAD, **arguments), pretrained_cfg))


# timm looks up the filter of a checkpoint where it makes a network, and passes it to this function only.
_builder.load_pretrained = _load_or_record  # type: ignore[assignment]


@contextmanager
def collect_pending_loads() -> Iterator[list[PendingLoad]]:
    """Make timm create networks without loading them inside this context, and collect the loads in a list."""
    pending: list[PendingLoad] = []
    token = _PENDING_LOADS.set(pending)
    try:
        yield pending
    finally:
        _PENDING_LOADS.reset(token)


@module.register(Timm)
def _(part: Timm, image: Features, *, info: EncoderInfo, pretrained: bool = True) -> nn.Module:
    """Build the network with random weights, or with others where the part asks and `pretrained` allows."""
    channels = image[0].channels
    arguments = {**_drop_classifier(part), **dict(info.arguments)}
    # An EncoderInfo from the user may lack the indices of its levels.
    indices = arguments.pop("out_indices", None) or resolve_timm_levels(
        part, create_timm_network(part, channels, "meta"), channels, "meta"
    )
    if not (pretrained and part.pretrained):
        return _wrap_network(part, create_timm_network(part, channels, get_default_device(), **arguments), indices)
    with convert_errors(lambda error: reject_pretrained(part.pretrained, error, "that timm publishes for it")):
        source = get_weights_file(part.pretrained)
        state = None if source is None else read_file_weights(Path(source[0]))
        if state is None:
            _check_published_reachable(part)
        with collect_pending_loads() as loads:
            network = create_timm_network(part, channels, get_default_device(), pretrained=True, **arguments)
        (load,) = loads
        encoder = _wrap_network(part, network, indices)
        wanted = load.map_tensors(encoder)
        if source is None or state is None:
            match(load.convert_published(), wanted).fill(wanted)
            encoder.loaded_weights = LoadedWeights()  # type: ignore[assignment]
        else:
            found = match(state, wanted, load.convert, prefix=source[1])
            found.fill(wanted)
            encoder.loaded_weights = found.report(source[0])  # type: ignore[assignment]
    return encoder


def _wrap_network(part: Timm, network: Any, indices: tuple[int, ...]) -> nn.Module:
    return network if part.features_only else TimmEncoder(network, indices, tokens=part.tokens, norm=part.norm)


def _drop_classifier(part: Timm) -> dict[str, int]:
    """Return the arguments for a network without its classifier, which would be drawn at random and pruned again.

    Without it all 1,371 networks of timm 1.0.31 have the same parameters and buffers left.
    """
    return {} if part.features_only or "num_classes" in dict(part.options) else {"num_classes": 0}


def _check_published_reachable(part: Timm) -> None:
    """Raise at once where the weights cannot be downloaded, and not after many attempts of timm and the hub."""
    published = timm.get_pretrained_cfg(part.name)
    if published is not None and published.hf_hub_id:
        check_reachable(published.hf_hub_id, published.hf_hub_filename)
