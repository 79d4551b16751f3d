"""Probe timm's networks for their features on the meta device, without weights and without a download."""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
import torch
from attrs import evolve
from torch import Tensor, nn

from composer.adapters.probing import ShapeProbe, find_patch_size, find_strides_and_sizes, probe_on_devices
from composer.adapters.rejections import reject_network
from composer.adapters.rounding import RoundingMismatch, infer_offsets, infer_rounding
from composer.adapters.timm.catalogue import reject_unknown_network, reject_unknown_tag
from composer.adapters.timm.networks import (
    count_levels,
    create_flexible_network,
    format_timm_error,
    get_channels_and_reductions,
    get_default_size,
    get_layout,
    limit_image_sizes,
    list_candidate_names,
    list_tags,
    reject_any_size,
    reject_img_size,
    reject_norm,
    reject_timm_arguments,
    reject_timm_sizes,
    resolve_timm_levels,
)
from composer.layouts import TOKENS, Features
from composer.modules.encoders import TimmEncoder
from composer.parts import EncoderInfo, Timm
from composer.parts.rules import Rejection, RejectionError
from composer.sizes import SizeConstraint


def probe(part: Timm, channels: int) -> EncoderInfo | Rejection:
    """Return the info of a network that is fed `channels` channels, found without weights and without a download.

    The network is built and run on the meta device; on the CPU where the meta device cannot run it (values that
    steer the forward pass) or is far too slow (recurrent networks, which it runs step by step).
    """
    if not timm.is_model(part.name):
        return reject_unknown_network(part.name, f"timm {timm.__version__}", list_candidate_names(part.name))
    network, _, tag = part.name.partition(".")
    if tag and tag not in list_tags(network):
        return reject_unknown_tag(part.name, f"timm {timm.__version__}", list_tags(network))
    try:
        return probe_on_devices(partial(_probe_timm_on, part, channels))
    except Exception as error:  # whatever a constructor raises for arguments that it does not take
        return reject_timm_arguments(part, error)


def _probe_timm_on(part: Timm, channels: int, device: str) -> EncoderInfo | Rejection:
    network, switch = create_flexible_network(part, channels, device)
    indices = resolve_timm_levels(part, network, channels, device)
    if device == "meta" and any(isinstance(child, nn.RNNBase) for child in network.modules()):
        return reject_timm_sizes(part, channels, None)
    encoder = network if part.features_only else _build_probed_encoder(part, network, indices, channels, device)
    encoder.eval()
    widths, reductions = get_channels_and_reductions(part, network, indices)
    trial = ShapeProbe(encoder, channels, device, get_layout(part, network), widths)
    usual = get_default_size(part, network)
    found = find_strides_and_sizes(limit_image_sizes(network, usual, trial.compute_grids), usual, reductions)
    if found is None:
        return reject_timm_sizes(part, channels, trial.error)
    strides, sizes = found
    if part.img_size is not None and sizes.compute_padded_size(*part.img_size) != part.img_size:
        raise RejectionError(reject_img_size(part.img_size, sizes))
    features: Features = trial.build_features(strides)
    if sizes.height is not None:
        features, sizes = infer_offset_levels(trial, features, reductions, usual) or (features, sizes)
    if part.any_size:
        features, sizes = _infer_any_size(trial, features, sizes, usual)
    if part.tokens:
        height, width = sizes.compute_padded_size(*usual) or (sizes.least, sizes.least)
        encoder.tokens = True
        features = probe_tokens(encoder, features, torch.empty(1, channels, height, width, device=device))
    return EncoderInfo(
        features=features,
        channels=channels,
        sizes=sizes,
        arguments={**switch, **({} if part.img_size is None else {"img_size": part.img_size}), "out_indices": indices},
        mean=network.pretrained_cfg["mean"],
        std=network.pretrained_cfg["std"],
        patch=find_patch_size(network),
        levels=count_levels(network),
    )


def infer_offset_levels(
    trial: ShapeProbe, maps: Features, reductions: tuple[int, ...], usual: tuple[int, int]
) -> tuple[Features, SizeConstraint] | None:
    """Return the levels and sizes of a network whose grids are exact at no multiple because its borders are not padded.

    None where the network is known at one size alone for another reason.
    """
    strided = tuple(evolve(f, stride=reduction) for f, reduction in zip(maps, reductions, strict=True))
    return infer_offsets(trial.compute_grids, strided, max(usual))


def _build_probed_encoder(
    part: Timm, network: Any, indices: tuple[int, ...], channels: int, device: str
) -> TimmEncoder:
    """Return the network as an encoder. Raises RejectionError where `norm` is set and its levels have no final norm."""
    encoder = TimmEncoder(network, indices, norm=part.norm)
    if part.norm:
        bare = TimmEncoder(create_flexible_network(part, channels, device)[0], indices)
        if len(list(bare.parameters())) == len(list(encoder.parameters())):
            raise RejectionError(reject_norm(None))
        height, width = get_default_size(part, network)
        try:
            with torch.no_grad():
                encoder.eval()(torch.empty(1, channels, height, width, device=device))
        except Exception as error:
            raise RejectionError(reject_norm(error)) from error
    return encoder


def _infer_any_size(
    trial: ShapeProbe, maps: Features, sizes: SizeConstraint, usual: tuple[int, int]
) -> tuple[Features, SizeConstraint]:
    """Return the levels as they round, and the sizes that need no padding. Raises RejectionError without such sizes."""
    known = sizes.compute_padded_size(*usual)
    if known is None or sizes.height is not None:
        trial.compute_grids(*(2 * side for side in usual))
        expected = "works at one image size only"
        raise RejectionError(reject_any_size(expected, str(sizes), "leave any_size out", trial.error))
    found = infer_rounding(trial.compute_grids, maps, sizes, max(known))
    if not isinstance(found, RoundingMismatch):
        return found
    trial.compute_grids(found.height, found.width)  # once more, for the error that it raises there
    if found.grid is None or found.level is None:
        expected = "does not run at every image size"
        got = format_timm_error(trial.error) if trial.error else "levels of other channels than it states"
    else:
        expected = "has levels that round neither down nor up at every image size"
        got = f"{found.grid[0]} × {found.grid[1]} cells of stride {maps[found.level].stride}"
    repair = f"leave any_size out: images are then padded to multiples of {sizes.multiple}"
    got = f"at {found.height} × {found.width}, {got}"
    raise RejectionError(reject_any_size(expected, got, repair, trial.error))


def probe_tokens(encoder: nn.Module, maps: Features, image_BCHW: Tensor) -> Features:
    """Return the levels as the tokens that the encoder emits, prefix first. Raises RejectionError without tokens."""
    try:
        with torch.no_grad():
            tokens = encoder(image_BCHW)
    except Exception as error:
        rejection = reject_network("cannot give its tokens", format_timm_error(error), "leave tokens out to get maps")
        raise RejectionError(rejection) from error
    height, width = image_BCHW.shape[-2:]
    return tuple(
        evolve(f, axes=TOKENS, prefix=x_BNC.shape[1] - f.cells(height) * f.cells(width))
        for f, x_BNC in zip(maps, tokens, strict=True)
    )
