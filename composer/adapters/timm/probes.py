"""What timm's networks give, found on the meta device: without weights and without a download."""

from __future__ import annotations

from typing import Any

import timm
import torch
from attrs import evolve
from torch import Tensor, nn

from composer.adapters.patches import patch_of
from composer.adapters.probing import strides_and_sizes
from composer.adapters.rounding import Misfit, rounded, with_offsets
from composer.adapters.timm.levels import count_of, levels, stated
from composer.adapters.timm.networks import at_sizes_of, create_flexible, default_size, layout, names_near, tags
from composer.adapters.timm.refusals import (
    arguments_refused,
    no_norm,
    no_size,
    no_tokens,
    not_any_size,
    not_this_size,
    one_size,
)
from composer.adapters.trial import Trial
from composer.catalogue.picking import unknown, unknown_tag
from composer.contracts.rules import Refusal, Refused
from composer.feature import TOKENS, Feature, Features
from composer.modules.generators import OwnGenerator
from composer.modules.timm_encoder import TimmEncoder
from composer.parts import Facts, Timm
from composer.sizes import Sizes


def probe(part: Timm, channels: int) -> Facts | Refusal:
    """The facts of a network that is fed `channels` channels, found without weights and without a download.

    The network is built and run on the meta device; on the CPU where the meta device cannot run it (values that
    steer the forward pass) or is far too slow (recurrent networks, which it runs step by step).
    """
    if not timm.is_model(part.name):
        return unknown(part.name, f"timm {timm.__version__}", names_near(part.name))
    network, _, tag = part.name.partition(".")
    if tag and tag not in tags(network):
        return unknown_tag(part.name, f"timm {timm.__version__}", tags(network))
    try:
        try:
            return _probe_on("meta", part, channels)
        except _MetaDeviceUnfitError:
            with OwnGenerator():
                return _probe_on("cpu", part, channels)
    except Refused as refused:
        return refused.refusal
    except Exception as error:  # whatever a constructor raises for arguments that it does not take
        return arguments_refused(part, error)


class _MetaDeviceUnfitError(Exception):
    """The meta device cannot tell what this network gives."""


def _probe_on(device: str, part: Timm, channels: int) -> Facts:
    network, switch = create_flexible(part, channels, device)
    indices = levels(part, network, channels, device)
    if device == "meta" and any(isinstance(child, nn.RNNBase) for child in network.modules()):
        raise _MetaDeviceUnfitError
    encoder = network if part.features_only else _encoder(part, network, indices, channels, device)
    encoder.eval()
    widths, reductions = stated(part, network, indices)
    axes = layout(part, network)
    trial = Trial(encoder, channels, device, axes, widths)
    usual = default_size(part, network)
    found = strides_and_sizes(at_sizes_of(network, usual, trial.grids_at), usual, reductions)
    if found is None:
        if device == "meta":
            raise _MetaDeviceUnfitError
        raise Refused(no_size(part, channels, trial.error))
    strides, sizes = found
    if part.img_size is not None and sizes.nearest(*part.img_size) != part.img_size:
        raise Refused(not_this_size(part.img_size, sizes))
    features: Features = tuple(Feature(channels=c, stride=s, axes=axes) for c, s in zip(widths, strides, strict=True))
    if sizes.height is not None:
        features, sizes = offset_levels(trial, features, reductions, usual) or (features, sizes)
    if part.any_size:
        features, sizes = _at_any_size(trial, features, sizes, usual)
    if part.tokens:
        height, width = sizes.nearest(*usual) or (sizes.least, sizes.least)
        encoder.tokens = True
        features = as_tokens(encoder, features, torch.empty(1, channels, height, width, device=device))
    return Facts(
        features=features,
        channels=channels,
        sizes=sizes,
        arguments={**switch, **({} if part.img_size is None else {"img_size": part.img_size}), "out_indices": indices},
        mean=network.pretrained_cfg["mean"],
        std=network.pretrained_cfg["std"],
        patch=patch_of(network),
        levels=count_of(network),
    )


def offset_levels(
    trial: Trial, maps: Features, reductions: tuple[int, ...], usual: tuple[int, int]
) -> tuple[Features, Sizes] | None:
    """The levels of a network whose grids are whole at no multiple, because some of its convolutions are not padded.

    None where that is not why it is known at one size alone.
    """
    strided = tuple(evolve(f, stride=reduction) for f, reduction in zip(maps, reductions, strict=True))
    return with_offsets(trial.grids_at, strided, max(usual))


def _encoder(part: Timm, network: Any, indices: tuple[int, ...], channels: int, device: str) -> TimmEncoder:
    """The network as an encoder. Raises Refused where it is to apply a final norm, and has none for these levels."""
    encoder = TimmEncoder(network, indices, norm=part.norm)
    if part.norm:
        bare = TimmEncoder(create_flexible(part, channels, device)[0], indices)
        if len(list(bare.parameters())) == len(list(encoder.parameters())):
            raise Refused(no_norm(None))
        height, width = default_size(part, network)
        try:
            with torch.no_grad():
                encoder.eval()(torch.empty(1, channels, height, width, device=device))
        except Exception as error:
            raise Refused(no_norm(error)) from error
    return encoder


def _at_any_size(trial: Trial, maps: Features, sizes: Sizes, usual: tuple[int, int]) -> tuple[Features, Sizes]:
    """The same levels as they round, and the sizes that need no padding. Raises Refused where those are no more."""
    known = sizes.nearest(*usual)
    if known is None or sizes.height is not None:
        trial.grids_at(*(2 * side for side in usual))
        raise Refused(one_size(sizes, trial.error))
    found = rounded(trial.grids_at, maps, sizes, max(known))
    if not isinstance(found, Misfit):
        return found
    trial.grids_at(found.height, found.width)  # once more, for what it raises there
    stride = None if found.level is None else maps[found.level].stride
    raise Refused(not_any_size(found, stride, trial.error, sizes.multiple))


def as_tokens(encoder: nn.Module, maps: Features, image_BCHW: Tensor) -> Features:
    """The same levels as tokens, prefix first, as the encoder gives them. Raises Refused where it cannot."""
    try:
        with torch.no_grad():
            tokens = encoder(image_BCHW)
    except Exception as error:
        raise Refused(no_tokens(error)) from error
    height, width = image_BCHW.shape[-2:]
    return tuple(
        evolve(f, axes=TOKENS, prefix=x_BNC.shape[1] - f.cells(height) * f.cells(width))
        for f, x_BNC in zip(maps, tokens, strict=True)
    )
