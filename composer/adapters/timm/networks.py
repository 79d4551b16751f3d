"""Networks of timm: how they are created, what timm states about them, and what they emit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import timm
import torch
from attrs import evolve
from timm.models.mvitv2 import MultiScaleVit
from torch import Tensor, nn

from composer.adapters.probing import (
    GridFunction,
    ShapeProbe,
    find_patch_size,
    find_strides_and_sizes,
    probe_on_devices,
)
from composer.adapters.rejections import normalize_indices, reject_all_sizes, reject_network, suggest_arguments
from composer.adapters.rounding import RoundingMismatch, infer_offsets, infer_rounding
from composer.adapters.timm.catalogue import SWITCHES, reject_unknown_network, reject_unknown_tag
from composer.errors import format_error
from composer.layouts import CHANNELS_LAST, MAP, TOKENS, Features
from composer.modules.base import use_default_device
from composer.modules.encoders import TimmEncoder
from composer.parts import EncoderInfo, Timm
from composer.parts.registry import drop_warnings
from composer.parts.rules import Kind, Rejection, RejectionError
from composer.parts.validators import to_keyword_arguments
from composer.resources import limit_modules
from composer.sizes import SizeConstraint

SIZE_SWITCHES: tuple[Mapping[str, bool], ...] = (*SWITCHES.values(), {})
"""The switches by which timm's networks take other image sizes, in the order in which they are tried."""


def list_networks(pattern: str = "*") -> list[str]:
    """List timm's networks whose name matches a glob pattern, without `timm/`."""
    return list(timm.list_models(pattern))


def list_candidate_names(name: str) -> list[str]:
    """List the names to suggest for an unknown `name`: all networks, and the tagged ones that begin as it does."""
    return list_networks() + list(timm.list_pretrained(f"{name.split('.')[0]}*"))


def list_tags(network: str) -> list[str]:
    """Return the tags of a network's weights: `a1_in1k` of `resnet50.a1_in1k`."""
    return [tag for name in timm.models.get_arch_pretrained_cfgs(network) if (tag := name.partition(".")[2])]


def get_declared_arguments(part: Timm) -> dict[str, Any]:
    """Return the arguments that the declaration sets, as timm names them."""
    fields = {"output_stride": part.output_stride, "img_size": part.img_size}
    return {name: value for name, value in fields.items() if value is not None} | to_keyword_arguments(part.options)


def create_timm_network(part: Timm, channels: int, device: str, **arguments: Any) -> Any:
    """Create the network that a part declares, in timm's wrapper with `features_only`. `arguments` are added.

    Raises whatever timm raises for arguments that the network does not take, and RejectionError for one too deep.
    """
    if part.features_only:
        arguments |= {"features_only": True}
        arguments |= {} if part.out_indices is None else {"out_indices": part.out_indices}
    # Tensors on the meta device warn that initialising them does nothing.
    with use_default_device(device), limit_modules(), drop_warnings():
        return timm.create_model(part.name, **{"in_chans": channels, **get_declared_arguments(part), **arguments})


def create_flexible_network(part: Timm, channels: int, device: str) -> tuple[Any, Mapping[str, bool]]:
    """Create the network without weights, and return it with the switch that makes its image size flexible.

    Raises as `create_timm_network` does.
    """
    declared = get_declared_arguments(part).keys() & {"dynamic_img_size", "strict_img_size"}
    *switches, last = ({},) if declared else SIZE_SWITCHES
    for switch in switches:
        try:
            return create_timm_network(part, channels, device, **switch), switch
        except RejectionError:
            raise
        except Exception:  # noqa: S112, an unknown switch is a TypeError, and the last try has none
            continue
    return create_timm_network(part, channels, device, **last), last


def get_default_size(part: Timm, network: Any) -> tuple[int, int]:
    """Return the image size at which a network is sure to run."""
    _, height, width = network.pretrained_cfg["input_size"]
    return part.img_size or (height, width)


def limit_image_sizes(network: Any, size: tuple[int, int], grids_at: GridFunction) -> GridFunction:
    """Return `compute_grids` for the sizes that a network made for `size` takes: for MViT v2 that one alone.

    At another size it indexes its tables of relative positions beyond their end, or from the wrong end. The meta device
    does not check indices.
    """
    if not any(isinstance(module, MultiScaleVit) for module in network.modules()):
        return grids_at
    return lambda height, width: grids_at(height, width) if (height, width) == size else None


def get_layout(part: Timm, network: Any) -> str:
    """Return the layout of the levels: maps of a plain network, the network's own layout in timm's wrapper."""
    # Networks that only have the usual layout lack the attribute.
    layout = str(getattr(network, "output_fmt", "")) if part.features_only else ""
    return CHANNELS_LAST if layout.endswith("NHWC") else MAP


def resolve_timm_levels(part: Timm, network: Any, channels: int, device: str) -> tuple[int, ...]:
    """Return `out_indices` counted from 0, or timm's default. Raises RejectionError for missing levels."""
    if part.out_indices is None:
        if not part.features_only:
            network = create_timm_network(evolve(part, features_only=True, tokens=False, norm=False), channels, device)
        return tuple(network.feature_info.out_indices)
    # timm's wrapper fails silently on a missing level, so the levels are those of the plain network.
    plain = create_timm_network(evolve(part, features_only=False), channels, device)
    indices = normalize_indices(part.out_indices, count_levels(plain))
    if isinstance(indices, Rejection):
        raise RejectionError(indices)
    return indices


def count_levels(network: Any) -> int:
    """Return the number of levels of a network."""
    # timm's wrapper has the list of them inside an object.
    return len(getattr(network.feature_info, "info", network.feature_info))


def get_channels_and_reductions(
    part: Timm, network: Any, indices: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the channels and reductions that timm states for the levels."""
    if part.features_only:
        return tuple(network.feature_info.channels()), tuple(network.feature_info.reduction())
    infos = [network.feature_info[index] for index in indices]
    # SAM's final norm comes after a neck with fewer channels.
    width = "num_chs_norm" if part.norm and all("num_chs_norm" in info for info in infos) else "num_chs"
    return tuple(info[width] for info in infos), tuple(info["reduction"] for info in infos)


_UNEXPECTED_ARGUMENT = re.compile(r"unexpected keyword argument '(\w+)'")


def reject_timm_arguments(part: Timm, error: Exception) -> Rejection:
    """Reject a network whose constructor raised `error`."""
    declared = get_declared_arguments(part)
    unexpected = _UNEXPECTED_ARGUMENT.search(str(error))
    named = [unexpected[1]] if unexpected and unexpected[1] in declared else declared
    fix = suggest_arguments(named or ["its arguments"])
    return reject_network("refuses its arguments", format_timm_error(error), fix)


def reject_timm_sizes(part: Timm, channels: int, error: Exception | None) -> Rejection:
    """Reject a network that runs at no size tried; `error` is what it raised, if it did."""
    got = "cells that are not square, or levels of other channels than it states"
    return reject_all_sizes(channels, format_timm_error(error) if error else got, get_declared_arguments(part))


def reject_norm(error: Exception | None) -> Rejection:
    """Reject `norm` where a network has no final norm for its levels, or raises `error` with it."""
    if error is not None:
        return reject_network("cannot apply its final norm to its levels", format_timm_error(error), "leave norm out")
    expected = "has no final norm that norm could apply"
    return evolve(reject_network(expected, "levels as they are", "leave norm out", "wrong_output"), about="norm")


def reject_img_size(size: tuple[int, int], sizes: SizeConstraint) -> Rejection:
    """Reject an `img_size` that is not one of the sizes the network takes."""
    nearest = sizes.compute_padded_size(*size)
    return Rejection(
        code="sizes",
        kind="wrong_output",
        expected=f"takes img_size: {sizes}",
        got=f"{size[0]} × {size[1]}",
        fix=f"img_size: {list(nearest)}" if nearest else "leave img_size out",
        about="img_size",
    )


def reject_any_size(expected: str, got: str, fix: str, error: Exception | None) -> RejectionError:
    """Reject `any_size` for a network that does not round at every size; `error` is what it raised there, if it did."""
    kind: Kind = "raises" if error else "wrong_output"
    return RejectionError(Rejection(code="sizes", kind=kind, expected=expected, got=got, fix=fix, about="any_size"))


def format_timm_error(error: Exception) -> str:
    """Return an exception of timm in one line."""
    return f"timm says {format_error(error)}"


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
        raise reject_any_size(expected, str(sizes), "leave any_size out", trial.error)
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
    fix = f"leave any_size out: images are then padded to multiples of {sizes.multiple}"
    got = f"at {found.height} × {found.width}, {got}"
    raise reject_any_size(expected, got, fix, trial.error)


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
