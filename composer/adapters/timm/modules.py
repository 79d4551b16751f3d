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

from composer.adapters.timm.networks import create_timm_network, reject_timm_weights, resolve_timm_levels
from composer.adapters.timm.networks import list_networks as list_networks
from composer.adapters.timm.probes import probe as probe
from composer.adapters.weights import check_reachable, read_file_weights, record_loaded_state
from composer.layouts import Features
from composer.modules.base import get_default_device, module
from composer.modules.encoders import TimmEncoder
from composer.parts import EncoderInfo, Timm
from composer.parts.encoders import get_weights_file
from composer.parts.rules import RejectionError
from composer.tensors.matching import LoadedWeights, TensorState, match

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


@module.register(Timm)
def _(part: Timm, image: Features, *, facts: EncoderInfo, pretrained: bool = True) -> nn.Module:
    """The network with random weights, or with the published ones where the part asks and `pretrained` allows."""
    channels = image[0].channels
    arguments = {**_drop_classifier(part), **dict(facts.arguments)}
    # EncoderInfo that were handed in need not say which levels they are of.
    indices = arguments.pop("out_indices", None) or _find_timm_levels(part, channels)
    if not (pretrained and part.pretrained):
        return _wrap_network(part, create_timm_network(part, channels, get_default_device(), **arguments), indices)
    try:
        source = get_weights_file(part.pretrained)
        state = None if source is None else read_file_weights(Path(source[0]))
        if state is None:
            _check_published_reachable(part)
        with collect_pending_loads() as loadings:
            network = create_timm_network(part, channels, get_default_device(), pretrained=True, **arguments)
        (loading,) = loadings
        encoder = _wrap_network(part, network, indices)
        encoder.loaded_weights = _load_timm_weights(part, state, loading, encoder)  # type: ignore[assignment]
    except (RejectionError, MemoryError):
        raise
    except Exception as error:
        raise RejectionError(reject_timm_weights(part, error)) from error
    return encoder


def _wrap_network(part: Timm, network: Any, indices: tuple[int, ...]) -> nn.Module:
    return network if part.features_only else TimmEncoder(network, indices, tokens=part.tokens, norm=part.norm)


def _drop_classifier(part: Timm) -> dict[str, int]:
    """A classifier would be drawn at random and pruned again.

    Without it all 1,371 networks of timm 1.0.31 have the same parameters and buffers left.
    """
    return {} if part.features_only or "num_classes" in dict(part.options) else {"num_classes": 0}


def _find_timm_levels(part: Timm, channels: int) -> tuple[int, ...]:
    return resolve_timm_levels(part, create_timm_network(part, channels, "meta"), channels, "meta")


def _load_timm_weights(
    part: Timm, state: TensorState | None, loading: PendingLoad, encoder: nn.Module
) -> LoadedWeights:
    """Fill the encoder with the tensors of a file, or with those that timm publishes. Raises where they do not."""
    wanted = loading.map_tensors(encoder)
    source = get_weights_file(part.pretrained)
    if state is not None and source is not None:
        file, prefix = source
        found = match(state, wanted, loading.convert, prefix=prefix)
        found.fill(wanted)
        return found.report(file)
    match(loading.convert_published(), wanted).fill(wanted)
    return LoadedWeights()


def _check_published_reachable(part: Timm) -> None:
    """Raise at once where the weights cannot be had, and not after timm and the hub have tried again and again."""
    published = timm.get_pretrained_cfg(part.name)
    if published is not None and published.hf_hub_id:
        check_reachable(published.hf_hub_id, published.hf_hub_filename)
