"""Networks of timm: what they emit, found without weights, and their modules."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from attrs import define, evolve
from timm.models import _builder
from timm.models.mvitv2 import MultiScaleVit
from torch import Tensor, nn

from composer.adapters.probing import ShapeProbe, find_patch_size, find_strides_and_sizes, probe_on_devices
from composer.adapters.rejections import (
    convert_errors,
    normalize_indices,
    reject_all_sizes,
    reject_network,
    suggest_arguments,
)
from composer.adapters.rounding import RoundingMismatch, infer_offsets, infer_rounding
from composer.adapters.timm.catalogue import SWITCHES, reject_unknown_network, reject_unknown_tag
from composer.adapters.weights import check_reachable, read_file_weights, record_loaded_state, reject_pretrained
from composer.errors import format_error
from composer.layouts import CHANNELS_LAST, MAP, TOKENS, Features
from composer.modules.base import get_default_device, module, use_default_device
from composer.modules.encoders import TransparentWrapper
from composer.parts import EncoderInfo, Timm
from composer.parts.encoders import get_weights_file
from composer.parts.rules import Kind, Rejection, RejectionError
from composer.parts.validators import to_keyword_arguments
from composer.process import drop_warnings
from composer.resources import limit_modules
from composer.sizes import SizeConstraint
from composer.tensors.matching import LoadedWeights, TensorState, match


def list_networks(pattern: str = "*") -> list[str]:
    """List timm's networks whose name matches a glob pattern, without `timm/`."""
    return list(timm.list_models(pattern))


def _get_declared_arguments(part: Timm) -> dict[str, Any]:
    """Return the arguments that the declaration sets, as timm names them."""
    fields = {"output_stride": part.output_stride, "img_size": part.img_size}
    return {name: value for name, value in fields.items() if value is not None} | to_keyword_arguments(part.options)


def _create_network(part: Timm, channels: int, device: str, **arguments: Any) -> Any:
    """Create the network that a part declares, in timm's wrapper with `features_only`. `arguments` are added.

    Raises whatever timm raises for arguments that the network does not take, and RejectionError for one too deep.
    """
    if part.features_only:
        arguments |= {"features_only": True}
        arguments |= {} if part.out_indices is None else {"out_indices": part.out_indices}
    # Tensors on the meta device warn that initialising them does nothing.
    with use_default_device(device), limit_modules(), drop_warnings():
        return timm.create_model(part.name, **{"in_chans": channels, **_get_declared_arguments(part), **arguments})


def _create_flexible_network(part: Timm, channels: int, device: str) -> tuple[Any, Mapping[str, bool]]:
    """Create the network without weights, and return it with the switch that makes its image size flexible.

    Raises as `_create_network` does.
    """
    if not _get_declared_arguments(part).keys() & SWITCHES.keys():
        for switch in SWITCHES.values():
            try:
                return _create_network(part, channels, device, **switch), switch
            except RejectionError:
                raise
            except Exception:  # noqa: S112, an unknown switch is a TypeError, and the last try has none
                continue
    return _create_network(part, channels, device), {}


def _resolve_levels(part: Timm, network: Any, channels: int, device: str) -> tuple[int, ...]:
    """Return `out_indices` counted from 0, or timm's default. Raises RejectionError for missing levels."""
    if part.out_indices is None:
        if not part.features_only:
            network = _create_network(evolve(part, features_only=True, tokens=False, norm=False), channels, device)
        return tuple(network.feature_info.out_indices)
    # timm's wrapper fails silently on a missing level, so the levels are those of the plain network.
    plain = _create_network(evolve(part, features_only=False), channels, device) if part.features_only else network
    indices = normalize_indices(part.out_indices, len(plain.feature_info))
    if isinstance(indices, Rejection):
        raise RejectionError(indices)
    return indices


def _get_channels_and_reductions(part: Timm, network: Any, indices: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Return the channels and the reductions that timm states for the levels."""
    if part.features_only:
        return tuple(network.feature_info.channels()), tuple(network.feature_info.reduction())
    infos = [network.feature_info[index] for index in indices]
    # SAM's final norm comes after a neck with fewer channels.
    width = "num_chs_norm" if part.norm and all("num_chs_norm" in info for info in infos) else "num_chs"
    return tuple(info[width] for info in infos), tuple(info["reduction"] for info in infos)


def probe(part: Timm, channels: int) -> EncoderInfo | Rejection:
    """Return the info of a network that is fed `channels` channels, found without weights and without a download.

    The network is built and run on the meta device; on the CPU where the meta device cannot run it (values that
    steer the forward pass) or is far too slow (recurrent networks, which it runs step by step).
    """
    version = f"timm {timm.__version__}"
    name, _, tag = part.name.partition(".")
    if not timm.is_model(part.name):
        return reject_unknown_network(part.name, version, [*list_networks(), *timm.list_pretrained(f"{name}*")])
    tags = [known for full in timm.models.get_arch_pretrained_cfgs(name) if (known := full.partition(".")[2])]
    if tag and tag not in tags:
        return reject_unknown_tag(part.name, version, tags)
    try:
        return probe_on_devices(partial(_probe_on, part, channels))
    except Exception as error:  # whatever a constructor raises for arguments that it does not take
        declared = _get_declared_arguments(part)
        unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        named = [unexpected[1]] if unexpected and unexpected[1] in declared else declared
        fix = suggest_arguments(named or ["its arguments"])
        return reject_network("refuses its arguments", _format_timm_error(error), fix)


def _probe_on(part: Timm, channels: int, device: str) -> EncoderInfo | Rejection:
    network, switch = _create_flexible_network(part, channels, device)
    indices = _resolve_levels(part, network, channels, device)
    widths, reductions = _get_channels_and_reductions(part, network, indices)
    levels = len(getattr(network.feature_info, "info", network.feature_info))  # a list inside an object in the wrapper
    usual = part.img_size or tuple(network.pretrained_cfg["input_size"][1:])
    encoder = network if part.features_only else _build_encoder(part, network, indices)
    # Networks that only have the usual layout lack the attribute.
    is_last = part.features_only and str(getattr(network, "output_fmt", "")).endswith("NHWC")
    trial = ShapeProbe(encoder.eval(), channels, device, CHANNELS_LAST if is_last else MAP, widths)
    if any(isinstance(child, MultiScaleVit) for child in network.modules()):
        # At another size it indexes its tables of relative positions beyond their end, or from the wrong end. The meta
        # device does not check indices.
        trial.only_size = usual
    is_slow = device == "meta" and any(isinstance(child, nn.RNNBase) for child in network.modules())
    found = None if is_slow else find_strides_and_sizes(trial.compute_grids, usual, reductions)
    if found is None:
        got = "cells that are not square, or levels of other channels than it states"
        got = _format_timm_error(trial.error) if trial.error else got
        return reject_all_sizes(channels, got, _get_declared_arguments(part))
    strides, sizes = found
    if part.img_size is not None and (nearest := sizes.compute_padded_size(*part.img_size)) != part.img_size:
        fix = f"img_size: {list(nearest)}" if nearest else "leave img_size out"
        height, width = part.img_size
        raise _reject_sizes("img_size", f"takes img_size: {sizes}", f"{height} × {width}", fix)
    features = trial.build_features(strides)
    if sizes.height is not None:
        # Without padding at their borders, grids are exact at no multiple of the strides, but follow an offset.
        strided = tuple(evolve(f, stride=reduction) for f, reduction in zip(features, reductions, strict=True))
        features, sizes = infer_offsets(trial.compute_grids, strided, max(usual)) or (features, sizes)
    if part.any_size:
        features, sizes = _infer_any_size(trial, features, sizes, usual)
    if part.tokens:
        encoder.tokens = True
        features = _probe_tokens(trial, features, *(sizes.compute_padded_size(*usual) or (sizes.least, sizes.least)))
    return EncoderInfo(
        features=features,
        channels=channels,
        sizes=sizes,
        arguments={**switch, **({} if part.img_size is None else {"img_size": part.img_size}), "out_indices": indices},
        mean=network.pretrained_cfg["mean"],
        std=network.pretrained_cfg["std"],
        patch=find_patch_size(network),
        levels=levels,
    )


class TimmEncoder(TransparentWrapper):
    """Return the levels `indices` of a plain timm network, as maps or tokens, with or without its final norm.

    Layers that none of these levels needs are pruned.
    """

    def __init__(self, network: Any, indices: Sequence[int], *, tokens: bool = False, norm: bool = False) -> None:
        levels = network.prune_intermediate_layers(list(indices), prune_norm=not norm, prune_head=True)
        super().__init__(network, list(levels))
        self.tokens = tokens
        # Two networks of timm have no such argument.
        self._normed = {"norm": True} if norm else {}

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        """Return each level as `(b, c, h, w)`, or with `tokens` as `(b, prefix + h * w, c)`."""
        run, options = self.network.forward_intermediates, {"indices": self.indices, "intermediates_only": True}
        if not self.tokens:
            return tuple(run(image_BCHW, **options, **self._normed))
        levels = run(image_BCHW, **options, **self._normed, return_prefix_tokens=True, output_fmt="NLC")
        pairs = [level if isinstance(level, tuple | list) else (level, None) for level in levels]
        return tuple(x if prefix is None else torch.cat([prefix, x], dim=1) for x, prefix in pairs)


def _build_encoder(part: Timm, network: Any, indices: tuple[int, ...]) -> TimmEncoder:
    """Return the network as an encoder. Raises RejectionError where `norm` is set and its levels have no final norm."""
    bare = TimmEncoder(deepcopy(network), indices) if part.norm else None
    encoder = TimmEncoder(network, indices, norm=part.norm)
    if bare is not None and len(list(bare.parameters())) == len(list(encoder.parameters())):
        expected = "has no final norm that norm could apply"
        rejection = reject_network(expected, "levels as they are", "leave norm out", "wrong_output")
        raise RejectionError(evolve(rejection, about="norm"))
    return encoder


def _infer_any_size(
    trial: ShapeProbe, maps: Features, sizes: SizeConstraint, usual: tuple[int, int]
) -> tuple[Features, SizeConstraint]:
    """Return the levels as they round, and the sizes that need no padding. Raises RejectionError without such sizes."""
    known = sizes.compute_padded_size(*usual)
    if known is None or sizes.height is not None:
        trial.compute_grids(*(2 * side for side in usual))
        kind: Kind = "raises" if trial.error else "wrong_output"
        raise _reject_sizes("any_size", "works at one image size only", str(sizes), "leave any_size out", kind)
    found = infer_rounding(trial.compute_grids, maps, sizes, max(known))
    if not isinstance(found, RoundingMismatch):
        return found
    trial.compute_grids(found.height, found.width)  # once more, for the error that it raises there
    if found.grid is None or found.level is None:
        expected = "does not run at every image size"
        got = _format_timm_error(trial.error) if trial.error else "levels of other channels than it states"
    else:
        expected = "has levels that round neither down nor up at every image size"
        got = f"{found.grid[0]} × {found.grid[1]} cells of stride {maps[found.level].stride}"
    fix = f"leave any_size out: images are then padded to multiples of {sizes.multiple}"
    got = f"at {found.height} × {found.width}, {got}"
    raise _reject_sizes("any_size", expected, got, fix, "raises" if trial.error else "wrong_output")


def _probe_tokens(trial: ShapeProbe, maps: Features, height: int, width: int) -> Features:
    """Return the levels as the tokens that the encoder emits, prefix first. Raises RejectionError without tokens."""

    def reject(error: Exception) -> Rejection:
        fix = "leave tokens out to get maps"
        return reject_network("cannot give its tokens", _format_timm_error(error), fix)

    with convert_errors(reject), torch.no_grad():
        tokens = trial.encoder(trial.make_input(height, width))
    return tuple(
        evolve(f, axes=TOKENS, prefix=x_BNC.shape[1] - f.cells(height) * f.cells(width))
        for f, x_BNC in zip(maps, tokens, strict=True)
    )


def _reject_sizes(about: str, expected: str, got: str, fix: str, kind: Kind = "wrong_output") -> RejectionError:
    return RejectionError(Rejection(code="sizes", kind=kind, expected=expected, got=got, fix=fix, about=about))


def _format_timm_error(error: Exception) -> str:
    return f"timm says {format_error(error)}"


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
        return self.convert_configured({**self.config, "source": "", "state_dict": state})

    def convert_configured(self, config: Mapping[str, Any]) -> TensorState:
        """Convert the weights that a config of timm names."""
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
    """Load the weights as timm does; where loads are collected, add this one to them."""
    pending = _PENDING_LOADS.get()
    if pending is None:
        _TIMM_LOAD(model, pretrained_cfg=pretrained_cfg, **arguments)
        return
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    pending.append(PendingLoad(deepcopy(model, tensors), partial(_TIMM_LOAD, **arguments), pretrained_cfg))


# timm looks up the filter of a checkpoint where it makes a network, and passes it to this function only.
_builder.load_pretrained = _load_or_record  # type: ignore[assignment]


@module.register(Timm)
def _(part: Timm, image: Features, *, info: EncoderInfo, pretrained: bool = True) -> nn.Module:
    """Build the network with random weights, or with others where the part asks and `pretrained` allows."""
    channels = image[0].channels
    arguments = dict(info.arguments)
    if not part.features_only and "num_classes" not in dict(part.options):
        # The classifier would be drawn at random and pruned again. Without it all 1,371 networks of timm 1.0.31 have
        # the same parameters and buffers left.
        arguments = {"num_classes": 0, **arguments}
    # An EncoderInfo from the user may lack the indices of its levels.
    indices = arguments.pop("out_indices", None) or _resolve_levels(
        part, _create_network(part, channels, "meta"), channels, "meta"
    )

    def wrap(network: Any) -> nn.Module:
        return network if part.features_only else TimmEncoder(network, indices, tokens=part.tokens, norm=part.norm)

    if not (pretrained and part.pretrained):
        return wrap(_create_network(part, channels, get_default_device(), **arguments))
    with convert_errors(lambda error: reject_pretrained(part.pretrained, error, "that timm publishes for it")):
        source = get_weights_file(part.pretrained)
        state = None if source is None else read_file_weights(Path(source[0]))
        published = timm.get_pretrained_cfg(part.name)
        if source is None and published is not None and published.hf_hub_id:
            # At once, and not after many attempts of timm and the hub.
            check_reachable(published.hf_hub_id, published.hf_hub_filename)
        loads: list[PendingLoad] = []
        token = _PENDING_LOADS.set(loads)
        try:
            network = _create_network(part, channels, get_default_device(), pretrained=True, **arguments)
        finally:
            _PENDING_LOADS.reset(token)
        encoder = wrap(network)
        (load,) = loads
        wanted = load.map_tensors(encoder)
        if source is None or state is None:
            match(load.convert_configured(load.config), wanted).fill(wanted)
            encoder.loaded_weights = LoadedWeights()  # type: ignore[assignment]
        else:
            found = match(state, wanted, load.convert, prefix=source[1])
            found.fill(wanted)
            encoder.loaded_weights = found.report(source[0])  # type: ignore[assignment]
    return encoder
