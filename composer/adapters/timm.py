"""timm's networks as encoders: what they give, found on the meta device, and the networks themselves."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import timm
import torch
from attrs import evolve
from torch import Tensor, nn

from composer.adapters.huggingface import check_reachable
from composer.adapters.probing import strides_and_sizes
from composer.adapters.trial import Trial
from composer.contracts.rules import Refusal, Refused
from composer.feature import CHANNELS_LAST, MAP, TOKENS, Feature, Features, counted
from composer.modules.dispatch import module
from composer.modules.timm_encoder import TimmEncoder
from composer.parts import Facts, Timm
from composer.problem import nearest

FLEXIBLE: tuple[dict[str, bool], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
"""The switches by which timm's networks take other image sizes, in the order in which they are tried."""


def names(pattern: str = "*") -> list[str]:
    """timm's networks whose name matches a glob pattern, without `timm/`."""
    return list(timm.list_models(pattern))


def probe(part: Timm, channels: int) -> Facts | Refusal:
    """The facts of a network that is fed `channels` channels, found without weights and without a download.

    The network is built and run on the meta device; on the CPU where the meta device cannot run it (values that
    steer the forward pass) or is far too slow (recurrent networks, which it runs step by step).
    """
    if not timm.is_model(part.name):
        return Refusal(
            code="network",
            kind="impossible",
            expected="is not a network of timm",
            got=f"timm {timm.__version__}",
            repair=nearest(part.name, _candidates(part.name)),
        )
    try:
        try:
            return _probe_on("meta", part, channels)
        except _MetaDeviceUnfitError:
            with torch.random.fork_rng(devices=[]):
                return _probe_on("cpu", part, channels)
    except Refused as refused:
        return refused.refusal
    except Exception as error:  # whatever a constructor raises for arguments that it does not take
        return _refused_arguments(part, error)


def _candidates(name: str) -> list[str]:
    every = timm.list_models()
    tagged = timm.list_pretrained(f"{name.split('.')[0]}*")
    return every + tagged


class _MetaDeviceUnfitError(Exception):
    """The meta device cannot tell what this network gives."""


def _probe_on(device: str, part: Timm, channels: int) -> Facts:
    network, arguments = _created(part, channels, device)
    indices = _levels(part, network, channels, device)
    if device == "meta" and any(isinstance(child, nn.RNNBase) for child in network.modules()):
        raise _MetaDeviceUnfitError
    encoder = network if part.features_only else TimmEncoder(network, indices)
    encoder.eval()
    widths, reductions = _told(part, network, indices)
    axes = _layout(network) if part.features_only else MAP
    trial = Trial(encoder, channels, device, axes, widths)
    found = strides_and_sizes(trial.grids_at, _default_size(part, network), reductions)
    if found is None:
        if device == "meta":
            raise _MetaDeviceUnfitError
        raise Refused(_no_size(part, channels, trial.error))
    strides, sizes = found
    features = tuple(Feature(channels=c, stride=s, axes=axes) for c, s in zip(widths, strides, strict=True))
    if part.tokens:
        size = sizes.nearest(*_default_size(part, network)) or (sizes.least, sizes.least)
        encoder.tokens = True
        features = _as_tokens(encoder, features, torch.empty(1, channels, *size, device=device))
    return Facts(
        features=features,
        channels=channels,
        sizes=sizes,
        arguments={**arguments, "out_indices": indices},
        mean=network.pretrained_cfg["mean"],
        std=network.pretrained_cfg["std"],
    )


def _as_tokens(encoder: nn.Module, maps: Features, image_BCHW: Tensor) -> Features:
    """The same levels as tokens, prefix first."""
    try:
        with torch.no_grad():
            levels = encoder(image_BCHW)
    except Exception as error:
        refusal = _refusal("cannot give its tokens", error, "leave tokens out: maps are what it gives")
        raise Refused(refusal) from error
    height, width = image_BCHW.shape[-2:]
    return tuple(
        Feature(
            channels=f.channels, stride=f.stride, axes=TOKENS, prefix=x_BNC.shape[1] - f.cells(height) * f.cells(width)
        )
        for f, x_BNC in zip(maps, levels, strict=True)
    )


def _told(part: Timm, network: Any, indices: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The channels and reductions that timm states for the levels."""
    if part.features_only:
        return tuple(network.feature_info.channels()), tuple(network.feature_info.reduction())
    infos = [network.feature_info[index] for index in indices]
    return tuple(info["num_chs"] for info in infos), tuple(info["reduction"] for info in infos)


def _layout(network: nn.Module) -> str:
    # Absent on the networks that know no other layout than the usual one.
    return CHANNELS_LAST if str(getattr(network, "output_fmt", "")).endswith("NHWC") else MAP


def _default_size(part: Timm, network: Any) -> tuple[int, int]:
    _, height, width = network.pretrained_cfg["input_size"]
    return part.img_size or (height, width)


def _declared(part: Timm) -> dict[str, Any]:
    """The arguments that the declaration spells out, as timm names them."""
    given = {"output_stride": part.output_stride, "img_size": part.img_size}
    return {name: value for name, value in given.items() if value is not None} | dict(part.options)


def _created(part: Timm, channels: int, device: str) -> tuple[Any, dict[str, bool]]:
    """The network on `device`, without weights, and the switch that makes its image size flexible."""
    declared = _declared(part)
    switches = ({},) if declared.keys() & {"dynamic_img_size", "strict_img_size"} else FLEXIBLE
    for switch in switches:
        try:
            return _create(part, channels, device, **declared, **switch), switch
        except Exception as error:
            # A switch that a network does not know is a TypeError, and the last try has none.
            if switch is switches[-1]:
                raise Refused(_refused_arguments(part, error)) from error
    raise AssertionError("the last try returns or raises")


def _create(part: Timm, channels: int, device: str, **arguments: Any) -> Any:
    if part.features_only:
        arguments |= {"features_only": True}
        arguments |= {} if part.out_indices is None else {"out_indices": part.out_indices}
    with torch.device(device), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # meta tensors warn that initialising them does nothing
        return timm.create_model(part.name, **{"in_chans": channels, **arguments})


def _levels(part: Timm, network: Any, channels: int, device: str) -> tuple[int, ...]:
    """The levels asked for, counted from 0; timm's own choice where none are. Raises Refused for what it has not."""
    if part.out_indices is None:
        if part.features_only:
            return tuple(network.feature_info.out_indices)
        wrapper = _create(evolve(part, features_only=True, tokens=False), channels, device, **_declared(part))
        return tuple(wrapper.feature_info.out_indices)
    # timm's wrapper fails without a word on a level that it has not, so it is the plain network that is asked.
    plain = _create(evolve(part, features_only=False), channels, device, **_declared(part))
    count = len(plain.feature_info)
    for position, index in enumerate(part.out_indices):
        if not -count <= index < count:
            raise Refused(
                Refusal(
                    code="index",
                    kind="impossible",
                    expected=f"has levels 0 to {count - 1}",
                    got=f"level {index}",
                    repair=f"use out_indices from {-count} to {count - 1}",
                    about=f"out_indices[{position}]",
                )
            )
    indices = tuple(index % count for index in part.out_indices)
    if list(indices) != sorted(set(indices)):
        raise Refused(
            Refusal(
                code="order",
                kind="lies",
                expected="gives its levels in its own order, each once",
                got=f"out_indices {list(part.out_indices)}",
                repair=f"out_indices: {sorted(set(indices))}, and SelectIndices for another order",
                about="out_indices",
            )
        )
    return indices


def _refusal(expected: str, error: Exception, repair: str) -> Refusal:
    said = f"timm says {type(error).__name__}{': ' if str(error) else ''}{' '.join(str(error).split())[:300]}"
    return Refusal(code="network", kind="impossible", expected=expected, got=said, repair=repair)


def _refused_arguments(part: Timm, error: Exception) -> Refusal:
    given = ", ".join(_declared(part)) or "its arguments"
    return _refusal("refuses its arguments", error, f"correct or leave out {given}")


def _no_size(part: Timm, channels: int, error: Exception | None) -> Refusal:
    expected = f"runs at no image size tried with {counted(channels, 'input channel')}"
    given = ", ".join(_declared(part))
    repair = f"correct or leave out {given}" if given else "choose another network"
    if error is not None:
        return _refusal(expected, error, repair)
    got = "cells that are not square, or levels of other channels than it states"
    return Refusal(code="network", kind="impossible", expected=expected, got=got, repair=repair)


@module.register(Timm)
def _(part: Timm, image: Features, *, facts: Facts, pretrained: bool = True) -> nn.Module:
    """The network with random weights, or with the published ones where the part asks and `pretrained` allows."""
    arguments = dict(facts.arguments)
    # Facts that were handed in need not say which levels they are of.
    indices = arguments.pop("out_indices", None) or _levels_of(part, image[0].channels)
    weights: dict[str, Any] = {}
    if pretrained and part.pretrained:
        weights["pretrained"] = True
        if isinstance(part.pretrained, str):
            weights["pretrained_cfg_overlay"] = {"file": part.pretrained}
    try:
        if weights:
            _check_weights(part)
        network = _create(part, image[0].channels, "cpu", **_declared(part), **arguments, **weights)
    except Exception as error:
        if not weights:
            raise
        raise Refused(_no_weights(part, error)) from error
    return network if part.features_only else TimmEncoder(network, indices, tokens=part.tokens)


def _levels_of(part: Timm, channels: int) -> tuple[int, ...]:
    network = _create(part, channels, "meta", **_declared(part))
    return _levels(part, network, channels, "meta")


def _check_weights(part: Timm) -> None:
    """Raise at once where the weights cannot be had, and not after timm and the hub have tried again and again."""
    if isinstance(part.pretrained, str):
        if not Path(part.pretrained).is_file():
            raise FileNotFoundError("there is no such file")
        return
    published = timm.get_pretrained_cfg(part.name)
    if published is not None and published.hf_hub_id:
        check_reachable(published.hf_hub_id, published.hf_hub_filename)


def _no_weights(part: Timm, error: Exception) -> Refusal:
    file = part.pretrained if isinstance(part.pretrained, str) else None
    return Refusal(
        code="weights",
        kind="impossible",
        expected=f"cannot load the weights {file or 'that timm publishes for it'}",
        # torch lists what does not fit from its second line on; the first few names tell which network it was.
        got=f"{type(error).__name__}: {' '.join(str(error).split())[:300] or 'no reason given'}",
        repair="give the path of a weights file that fits this network"
        if file
        else "check the connection, give the path of a weights file, or set pretrained: false",
        about="pretrained",
    )
